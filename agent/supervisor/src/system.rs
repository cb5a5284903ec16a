//! What the standard library lacks: signals as something to wait for together with a socket, and signals to send.

use std::{
    io,
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command},
    time::Duration,
};

/// Signals we handle; everything else keeps its usual effect.
const SIGNALS: [i32; 6] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGUSR1, libc::SIGUSR2, libc::SIGCHLD];

/// Signals, as something to read.
pub struct Signals(OwnedFd);

fn set() -> libc::sigset_t {
    // SAFETY: all bits zero is a value of this plain type; both calls only write to it.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in SIGNALS {
            libc::sigaddset(&mut set, signal);
        }
        set
    }
}

impl Signals {
    /// From now on signals wait to be read.
    pub fn catch() -> io::Result<Self> {
        let set = set();
        // SAFETY: the set lives through both calls; a descriptor of success is ours alone.
        unsafe {
            if libc::sigprocmask(libc::SIG_BLOCK, &set, std::ptr::null_mut()) != 0 {
                return Err(io::Error::last_os_error());
            }
            match libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
                fd if fd >= 0 => Ok(Self(OwnedFd::from_raw_fd(fd))),
                _ => Err(io::Error::last_os_error()),
            }
        }
    }

    /// The next signal that waits.
    pub fn next(&self) -> Option<i32> {
        // SAFETY: the buffer is a plain struct of exactly the size that is read.
        unsafe {
            let mut info: libc::signalfd_siginfo = std::mem::zeroed();
            let size = std::mem::size_of_val(&info);
            let n = libc::read(self.0.as_raw_fd(), (&raw mut info).cast(), size);
            (n == size as isize).then_some(info.ssi_signo as i32)
        }
    }
}

/// Waits for a signal, or something to read on `other`, at most `most`.
pub fn wait(signals: &Signals, other: &impl AsRawFd, most: Option<Duration>) {
    let entry = |fd| libc::pollfd { fd, events: libc::POLLIN, revents: 0 };
    let mut both = [entry(signals.0.as_raw_fd()), entry(other.as_raw_fd())];
    // Rounded up, so that a deadline has passed when we wake.
    let most = most.map_or(-1, |most| i32::try_from(most.as_millis() + 1).unwrap_or(i32::MAX));
    // SAFETY: two entries are given and two are there. A failure is a wake-up like any other.
    unsafe { libc::poll(both.as_mut_ptr(), 2, most) };
}

/// Starts `command` with all signals as usual; it dies with us.
pub fn spawn(command: &mut Command) -> io::Result<Child> {
    let set = set();
    let us = std::process::id();
    let prepare = move || {
        // SAFETY: these calls are safe between fork and exec, and touch nothing of ours.
        unsafe {
            if libc::sigprocmask(libc::SIG_UNBLOCK, &set, std::ptr::null_mut()) != 0
                || libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0
            {
                return Err(io::Error::last_os_error());
            }
            // We may have died before the line above.
            if libc::getppid() != us as i32 {
                libc::_exit(1);
            }
        }
        Ok(())
    };
    // SAFETY: the closure allocates nothing and takes no lock.
    unsafe { command.pre_exec(prepare) }.spawn()
}

/// Sends `signal` to `child`, which has not been waited for yet, so that its id is its own.
pub fn signal(child: &Child, signal: i32) {
    // SAFETY: plain system call. It fails only if the child is gone, which is as well.
    unsafe { libc::kill(child.id() as i32, signal) };
}

/// Takes in children other than `agent` that were left to us: whoever runs as process 1 gets them.
pub fn reap(agent: Option<u32>) {
    loop {
        // SAFETY: plain system calls on a local struct; WNOWAIT leaves the agent's end to its owner.
        unsafe {
            let mut info: libc::siginfo_t = std::mem::zeroed();
            let flags = libc::WEXITED | libc::WNOHANG | libc::WNOWAIT;
            if libc::waitid(libc::P_ALL, 0, &mut info, flags) != 0 || info.si_pid() == 0 {
                return;
            }
            let pid = info.si_pid();
            if Some(pid as u32) == agent || libc::waitpid(pid, std::ptr::null_mut(), libc::WNOHANG) <= 0 {
                return;
            }
        }
    }
}
