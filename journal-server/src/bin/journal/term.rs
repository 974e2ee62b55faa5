//! The terminal: raw keys, its size, and drawing that leaves it as it was.

use std::io::{self, IsTerminal, Write};

use tokio::io::AsyncReadExt;

/// A terminal that shows a full-screen picture. Dropping it brings back what was there.
pub struct Screen {
    before: Option<libc::termios>,
}

impl Screen {
    /// Takes the terminal over; fails where there is none that can be.
    pub fn open() -> io::Result<Screen> {
        let dumb = std::env::var_os("TERM").is_none_or(|term| term == "dumb" || term.is_empty());
        if !io::stdout().is_terminal() || dumb {
            return Err(io::Error::other("this is no terminal that can be drawn on"));
        }
        let before = if io::stdin().is_terminal() { Some(sys::keys_without_enter()?) } else { None };
        // The other screen, without a cursor.
        print!("\x1b[?1049h\x1b[?25l");
        io::stdout().flush()?;
        Ok(Screen { before })
    }

    /// Columns and lines.
    pub fn size(&self) -> (usize, usize) {
        sys::size().unwrap_or((80, 24))
    }

    /// Draws lines from the top, each cut to the width, and clears what was below.
    pub fn draw(&self, lines: &[String]) -> io::Result<()> {
        let (columns, rows) = self.size();
        let mut picture = String::from("\x1b[H");
        for line in lines.iter().take(rows) {
            picture.extend(line.chars().take(columns));
            picture.push_str("\x1b[K\r\n");
        }
        // No line end after the last one: it would scroll.
        picture.truncate(picture.len() - 2);
        picture.push_str("\x1b[J");
        let mut out = io::stdout().lock();
        out.write_all(picture.as_bytes())?;
        out.flush()
    }

    /// The next key; never, where there is no keyboard.
    pub async fn key(&self) -> u8 {
        if self.before.is_some()
            && let Ok(key) = tokio::io::stdin().read_u8().await
        {
            return key;
        }
        std::future::pending().await
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        print!("\x1b[?25h\x1b[?1049l");
        let _ = io::stdout().flush();
        if let Some(before) = &self.before {
            sys::restore(before);
        }
    }
}

/// Eight steps of height a character, the newest to the right, scaled to the highest.
pub fn sparkline(values: &[f64], width: usize) -> String {
    const STEPS: [char; 8] = ['▁', '▂', '▃', '▄', '▅', '▆', '▇', '█'];
    let shown = &values[values.len().saturating_sub(width)..];
    let highest = shown.iter().copied().fold(0.0, f64::max);
    let blank = " ".repeat(width - shown.len());
    let bars = shown.iter().map(|value| {
        let height = if highest > 0.0 { value / highest * 7.0 } else { 0.0 };
        STEPS[(height.round() as usize).min(7)]
    });
    blank.chars().chain(bars).collect()
}

/// The calls that the standard library does not have.
#[allow(unsafe_code)]
mod sys {
    use std::io;
    use std::mem::MaybeUninit;

    /// Keys arrive one by one and are not shown; Ctrl-C stays what it is. Returns what was before.
    pub fn keys_without_enter() -> io::Result<libc::termios> {
        let mut before = MaybeUninit::<libc::termios>::uninit();
        // SAFETY: tcgetattr fills the structure or fails; it is read only if it did not fail.
        let before = unsafe {
            if libc::tcgetattr(libc::STDIN_FILENO, before.as_mut_ptr()) != 0 {
                return Err(io::Error::last_os_error());
            }
            before.assume_init()
        };
        let mut raw = before;
        raw.c_lflag &= !(libc::ICANON | libc::ECHO);
        raw.c_cc[libc::VMIN] = 1;
        raw.c_cc[libc::VTIME] = 0;
        restore(&raw);
        Ok(before)
    }

    pub fn restore(to: &libc::termios) {
        // SAFETY: tcsetattr reads a structure that we own.
        unsafe { libc::tcsetattr(libc::STDIN_FILENO, libc::TCSANOW, to) };
    }

    pub fn size() -> Option<(usize, usize)> {
        let mut size = MaybeUninit::<libc::winsize>::zeroed();
        // SAFETY: the request writes a winsize, which is plain numbers and zeroed before.
        let size = unsafe {
            if libc::ioctl(libc::STDOUT_FILENO, libc::TIOCGWINSZ, size.as_mut_ptr()) != 0 {
                return None;
            }
            size.assume_init()
        };
        (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sparkline_is_scaled_to_its_highest_and_ends_with_the_newest() {
        assert_eq!(sparkline(&[0.0, 3.5, 7.0], 5), "  ▁▅█");
        assert_eq!(sparkline(&[9.0, 1.0, 1.0], 2), "██");
        assert_eq!(sparkline(&[0.0, 0.0], 2), "▁▁");
        assert_eq!(sparkline(&[], 3), "   ");
    }
}
