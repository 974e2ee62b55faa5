//! openraft's runtime: tokio, with randomness that a simulation can seed, and with sleeps that suit
//! many groups in one process.
//!
//! Election timeouts are the only randomness of Raft. They are drawn from a generator of the thread,
//! seeded once: from the operating system in production, from the simulation's seed there. The
//! simulation runs every node on one thread, so one seed decides everything.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use openraft::TokioRuntime;
use openraft::type_config::async_runtime::AsyncRuntime;
use rand10::SeedableRng;
use rand10::rngs::SmallRng;
use tokio::time::Instant;

thread_local! {
    static SEED: Cell<Option<u64>> = const { Cell::new(None) };
}

/// Makes all randomness of Raft on this thread a function of `seed`. Many nodes may share the thread:
/// their ticks stay out of step, as those of many processes are.
pub fn seed_thread(seed: u64) {
    SEED.set(Some(seed));
    GRID.set(Grid::Off);
}

/// One step of SplitMix64: every seed leads to another, and their outputs look unrelated.
fn next_seed() -> u64 {
    let seed = SEED.get().unwrap_or_else(rand::random).wrapping_add(0x9e37_79b9_7f4a_7c15);
    SEED.set(Some(seed));
    let z = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Ticks of all groups of this process fall on multiples of this. Everything that Raft does by the
/// clock is done at a tick: heartbeats and elections are that coarse.
pub const TICK: Duration = Duration::from_millis(200);
/// Sleeps until a moment that far ahead are ticks, and nothing else.
const TICK_MIN: Duration = Duration::from_millis(2);
/// A wait shorter than this is worth a few yields.
const BRIEF: Duration = Duration::from_micros(10);

#[derive(Clone, Copy)]
enum Grid {
    Unset,
    Since(Instant),
    Off,
}

thread_local! {
    static GRID: Cell<Grid> = const { Cell::new(Grid::Unset) };
}

/// The first line of the grid at or after `deadline`. Every group draws the phase of its ticks by
/// itself; on one grid they fall together, so that a process with many groups wakes for all of them
/// at once and their heartbeats travel in one write. The grid begins when the process does: nodes
/// stay out of step with each other.
fn on_grid(deadline: Instant) -> Instant {
    let began = match GRID.get() {
        Grid::Off => return deadline,
        Grid::Since(began) => began,
        Grid::Unset => {
            let now = Instant::now();
            GRID.set(Grid::Since(now));
            now
        }
    };
    let since = deadline.saturating_duration_since(began).as_micros() as u64;
    began + Duration::from_micros(since.next_multiple_of(TICK.as_micros() as u64))
}

/// A sleep that never ends early: whoever computes its next deadline from the clock would spin. A pause
/// too short for a timer yields a few times, which takes about as long, before it asks the timer:
/// openraft pauses for a microsecond between two completions of the disk, and a timer would make it a
/// millisecond.
#[derive(Debug)]
pub enum Sleep {
    Timer(Pin<Box<tokio::time::Sleep>>),
    Brief { until: Instant, yields_left: u8 },
}

impl Future for Sleep {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            match &mut *self {
                Sleep::Timer(sleep) => return sleep.as_mut().poll(cx),
                Sleep::Brief { until, .. } if *until <= Instant::now() => return Poll::Ready(()),
                Sleep::Brief { until, yields_left: 0 } => {
                    *self = Sleep::Timer(Box::pin(tokio::time::sleep_until(*until)))
                }
                Sleep::Brief { yields_left, .. } => {
                    *yields_left -= 1;
                    cx.waker().wake_by_ref();
                    return Poll::Pending;
                }
            }
        }
    }
}

#[derive(Debug)]
pub struct Runtime(TokioRuntime);

impl AsyncRuntime for Runtime {
    type JoinError = <TokioRuntime as AsyncRuntime>::JoinError;
    type JoinHandle<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::JoinHandle<T>;
    type Sleep = Sleep;
    type Instant = <TokioRuntime as AsyncRuntime>::Instant;
    type TimeoutError = <TokioRuntime as AsyncRuntime>::TimeoutError;
    type Timeout<R, T: Future<Output = R> + Send> = <TokioRuntime as AsyncRuntime>::Timeout<R, T>;
    type ThreadLocalRng = SmallRng;
    type Mpsc = <TokioRuntime as AsyncRuntime>::Mpsc;
    type Watch = <TokioRuntime as AsyncRuntime>::Watch;
    type Oneshot = <TokioRuntime as AsyncRuntime>::Oneshot;
    type Mutex<T: Send + 'static> = <TokioRuntime as AsyncRuntime>::Mutex<T>;

    fn spawn<T>(future: T) -> Self::JoinHandle<T::Output>
    where
        T: Future + Send + 'static,
        T::Output: Send + 'static,
    {
        TokioRuntime::spawn(future)
    }

    fn sleep(duration: Duration) -> Self::Sleep {
        Sleep::Timer(Box::pin(tokio::time::sleep(duration)))
    }

    fn sleep_until(deadline: Self::Instant) -> Self::Sleep {
        // openraft's instant does not show the one inside it.
        let wait = openraft::Instant::saturating_duration_since(&deadline, openraft::Instant::now());
        let deadline = Instant::now() + wait;
        if wait < BRIEF {
            Sleep::Brief { until: deadline, yields_left: 16 }
        } else if wait < TICK_MIN {
            Sleep::Timer(Box::pin(tokio::time::sleep_until(deadline)))
        } else {
            Sleep::Timer(Box::pin(tokio::time::sleep_until(on_grid(deadline))))
        }
    }

    fn timeout<R, F: Future<Output = R> + Send>(duration: Duration, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout(duration, future)
    }

    fn timeout_at<R, F: Future<Output = R> + Send>(deadline: Self::Instant, future: F) -> Self::Timeout<R, F> {
        TokioRuntime::timeout_at(deadline, future)
    }

    fn is_panic(join_error: &Self::JoinError) -> bool {
        TokioRuntime::is_panic(join_error)
    }

    fn thread_rng() -> Self::ThreadLocalRng {
        SmallRng::seed_from_u64(next_seed())
    }

    fn new(threads: usize) -> Self {
        Runtime(TokioRuntime::new(threads))
    }

    fn block_on<F, T>(&mut self, future: F) -> T
    where
        F: Future<Output = T>,
    {
        self.0.block_on(future)
    }
}

#[cfg(test)]
mod tests {
    use openraft::Instant as _;

    use super::*;

    type TokioInstant = <TokioRuntime as AsyncRuntime>::Instant;

    /// A ticker that is woken early asks for the same deadline again, at once, until the clock has
    /// got there: with a clock that stands still while anybody runs, for ever.
    #[tokio::test(start_paused = true)]
    async fn no_sleep_ends_before_its_deadline() {
        for wait in [0, 1, 9, 10, 500, 999, 1_000, 1_999, 2_000, 19_999, 20_000, 100_000] {
            let deadline = TokioInstant::now() + Duration::from_micros(wait);
            Runtime::sleep_until(deadline).await;
            assert!(TokioInstant::now() >= deadline, "{wait} us");
        }
    }
}
