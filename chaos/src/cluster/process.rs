//! One child process: born in its own process group, dead when its parent dies, never a zombie.
//!
//! The kernel ties a child's death to the *thread* that made it, and threads of an async runtime
//! come and go. So one thread, which lives as long as this process, makes all of them.

use std::fs::File;
use std::io;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{OnceLock, mpsc};

/// What a process can be sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    Terminate,
    Kill,
    Stop,
    Continue,
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
}

impl Process {
    /// Starts `command` with its output appended to the file at `log`.
    pub fn spawn(mut command: Command, log: &Path) -> io::Result<Process> {
        let log = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        Ok(Process { child: nursery::spawn(command)? })
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn signal(&self, signal: Signal) {
        sys::signal(self.pid(), signal);
    }

    /// How the process ended, if it did.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.ended().is_none() {
            // A stopped process dies of SIGKILL too.
            self.signal(Signal::Kill);
            let _ = self.child.wait();
        }
    }
}

mod nursery {
    use super::*;

    type Order = (Command, mpsc::SyncSender<io::Result<Child>>);

    pub fn spawn(command: Command) -> io::Result<Child> {
        static ORDERS: OnceLock<mpsc::SyncSender<Order>> = OnceLock::new();
        let orders = ORDERS.get_or_init(|| {
            let (orders, inbox) = mpsc::sync_channel::<Order>(16);
            std::thread::Builder::new()
                .name("nursery".into())
                .spawn(move || {
                    for (mut command, answer) in inbox {
                        // Who asked waits for the answer, so it is taken.
                        let _ = answer.send(super::sys::spawn_tied(&mut command));
                    }
                })
                .expect("a process that can have children can have one thread more");
            orders
        });
        let (answer, child) = mpsc::sync_channel(1);
        orders.send((command, answer)).expect("the nursery lives as long as this process");
        child.recv().expect("the nursery answers every order")
    }
}

/// The few calls that the standard library does not have.
#[allow(unsafe_code)]
mod sys {
    use super::*;
    use std::os::unix::process::CommandExt;

    pub fn spawn_tied(command: &mut Command) -> io::Result<Child> {
        // Its own group: a Ctrl-C at the terminal is for the parent, which then stops its children
        // in an orderly way.
        command.process_group(0);
        let parent = std::process::id();
        // SAFETY: between fork and exec only async-signal-safe calls are allowed; prctl, getppid
        // and the construction of an error from errno are.
        unsafe {
            command.pre_exec(move || {
                if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                    return Err(io::Error::last_os_error());
                }
                // The parent may have died before the line above.
                if libc::getppid() as u32 != parent {
                    return Err(io::Error::from_raw_os_error(libc::ESRCH));
                }
                Ok(())
            });
        }
        command.spawn()
    }

    pub fn signal(pid: u32, signal: Signal) {
        let number = match signal {
            Signal::Terminate => libc::SIGTERM,
            Signal::Kill => libc::SIGKILL,
            Signal::Stop => libc::SIGSTOP,
            Signal::Continue => libc::SIGCONT,
        };
        // SAFETY: kill has no memory to get wrong. The pid is that of a child not yet waited for,
        // so it cannot belong to anybody else.
        unsafe { libc::kill(pid as libc::pid_t, number) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper(dir: &tempfile::TempDir) -> Process {
        let mut command = Command::new("sleep");
        command.arg("600");
        Process::spawn(command, &dir.path().join("log")).unwrap()
    }

    #[test]
    fn a_killed_process_is_seen_to_have_ended() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = sleeper(&dir);
        assert!(process.ended().is_none());
        process.signal(Signal::Kill);
        let status = (0..1000).find_map(|_| {
            std::thread::sleep(std::time::Duration::from_millis(5));
            process.ended()
        });
        assert!(!status.unwrap().success());
    }

    #[test]
    fn a_process_outlives_the_thread_that_asked_for_it() {
        let dir = tempfile::tempdir().unwrap();
        let mut process = std::thread::scope(|scope| scope.spawn(|| sleeper(&dir)).join().unwrap());
        std::thread::sleep(std::time::Duration::from_millis(100));
        assert!(process.ended().is_none());
    }

    #[test]
    fn dropping_a_stopped_process_ends_it() {
        let dir = tempfile::tempdir().unwrap();
        let process = sleeper(&dir);
        let pid = process.pid();
        process.signal(Signal::Stop);
        drop(process);
        assert!(!Path::new(&format!("/proc/{pid}")).exists());
    }
}
