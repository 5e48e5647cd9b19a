//! What the cores of the generator and the thread that leads them tell each other.

use crate::plan::Plan;
use crate::worker::{Load, Times};
use std::io::Write;
use std::os::unix::net::UnixStream;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// One core's news.
#[derive(Debug)]
pub struct CoreNews {
    /// All its clients are connected and subscribed.
    pub ready: AtomicBool,
    /// Its publishers sent their last message; `expected` is final and `unsettled` is kept up to date.
    pub stopped: AtomicBool,
    /// It sleeps until its ring or its wake-up socket has something.
    pub asleep: AtomicBool,
    /// Its clients that are connected and subscribed.
    pub connected: AtomicU64,
    /// Messages its subscribers got, duplicates not counted.
    pub received: AtomicU64,
    /// Deliveries its publishers' messages must lead to, on all cores.
    pub expected: AtomicU64,
    /// QoS 1 and 2 messages of its publishers whose handshake is not done.
    pub unsettled: AtomicU64,
    /// The other end of its wake-up socket.
    wake: UnixStream,
}

/// All that is shared in a run.
#[derive(Debug)]
pub struct Shared {
    /// By core.
    pub cores: Vec<CoreNews>,
    /// By publisher and core: subscribers that must get each message.
    pub receivers: Vec<Vec<u32>>,
    /// By publisher: its core, and its index there.
    pub homes: Vec<(usize, usize)>,
    /// Messages in an end-to-end window; the largest number when there is none.
    pub window: u64,
    /// By publisher and core: the oldest message that a subscriber on that core lacks.
    progress: Vec<AtomicU64>,
    times: OnceLock<Times>,
    over: AtomicBool,
}

impl Shared {
    /// For a plan, and the sockets that wake each core.
    pub fn new(plan: &Plan, load: Load, wakes: Vec<UnixStream>) -> Self {
        let cores = wakes.len();
        let receivers = plan.receivers(cores);
        let mut counts = vec![0; cores];
        let mut homes = vec![(0, 0); plan.publisher_count as usize];
        for client in &plan.clients {
            if let Some((number, _)) = client.publishes {
                homes[number as usize] = (client.core, counts[client.core]);
                counts[client.core] += 1;
            }
        }
        // A core without subscribers of a publisher must not hold it back.
        let base = |count: &u32| AtomicU64::new(if *count > 0 { 0 } else { u64::MAX });
        let progress = receivers.iter().flatten().map(base).collect();
        let window = match load {
            Load::Closed { window } => window as u64,
            Load::Open { .. } | Load::Idle => u64::MAX,
        };
        let cores = wakes.into_iter().map(|wake| CoreNews {
            ready: AtomicBool::new(false),
            stopped: AtomicBool::new(false),
            asleep: AtomicBool::new(false),
            connected: AtomicU64::new(0),
            received: AtomicU64::new(0),
            expected: AtomicU64::new(0),
            unsettled: AtomicU64::new(0),
            wake,
        });
        Self {
            cores: cores.collect(),
            receivers,
            homes,
            window,
            progress,
            times: OnceLock::new(),
            over: AtomicBool::new(false),
        }
    }

    /// The times of the run, once they are set.
    pub fn times(&self) -> Option<Times> {
        self.times.get().copied()
    }

    /// Sets the times, once.
    pub fn start(&self, times: Times) {
        assert!(self.times.set(times).is_ok(), "a run starts once");
    }

    /// Whether everyone is to stop.
    pub fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    /// Tells everyone to stop.
    pub fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    /// The oldest message of a publisher that a subscriber on `core` lacks.
    pub fn progress(&self, publisher: usize, core: usize) -> &AtomicU64 {
        &self.progress[publisher * self.cores.len() + core]
    }

    /// The first message that a publisher may not send yet.
    pub fn window_end(&self, publisher: usize) -> u64 {
        let bases = (0..self.cores.len()).map(|core| self.progress(publisher, core));
        let base = bases.map(|base| base.load(Ordering::Acquire)).min();
        base.unwrap_or(0).saturating_add(self.window)
    }

    /// Wakes a core if it sleeps.
    pub fn wake(&self, core: usize) {
        let news = &self.cores[core];
        if news.asleep.swap(false, Ordering::SeqCst) {
            // When the socket is full the core has wake-ups enough.
            let _ = (&news.wake).write(&[0]);
        }
    }
}
