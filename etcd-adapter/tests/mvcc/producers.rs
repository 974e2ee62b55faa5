//! At most once: producers, and what they send.
