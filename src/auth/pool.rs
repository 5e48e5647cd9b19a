//! The threads that judge, and the way there and back.
//!
//! A core leaves a [`Task`] and goes on. What is remembered from before is answered on the spot; everything else waits in
//! one of two lines: what is computed, and what a service is asked, so that a slow service delays nobody else. A line is
//! bounded: who would come after its end is told that the server is busy. What nobody waits for any more is passed over
//! without work, so that a line full of clients that gave up is no line.
//!
//! The threads have a low priority: while there are messages to be moved, these are moved.

use super::verifier::{Memory, Sources, Task, Verifier};
use crate::config::listener::AuthMethod;
use crate::mesh::wake::Wake;
use crate::protocol::ReasonCode;
use crate::shard::credentials::Verdict;
use crate::shard::input::ConnKey;
use std::collections::VecDeque;
use std::io;
use std::mem::replace;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, RwLock};
use std::thread;

/// Niceness of the threads: a sixtieth of the time when a core wants all of it.
const NICENESS: libc::c_int = 19;

/// How many threads there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolSize {
    /// Those that compute.
    pub computing: usize,
    /// Those that wait for a service's answer.
    pub asking: usize,
}

/// What was done, for whoever counts.
#[derive(Debug, Default)]
pub struct PoolCounters {
    /// Verdicts that were computed or asked for.
    pub judged: AtomicU64,
    /// Verdicts that were remembered.
    pub recalled: AtomicU64,
    /// Requests that found their line full.
    pub busy: AtomicU64,
    /// Requests that nobody waited for any more when their turn came.
    pub abandoned: AtomicU64,
}

/// The threads. They end when this is dropped.
#[derive(Debug)]
pub struct Pool {
    shared: Arc<Shared>,
}

/// One core's end: it stays on its thread.
#[derive(Debug)]
pub struct AuthLink {
    mailbox: Arc<Mailbox>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    sources: RwLock<Arc<Sources>>,
    memory: Memory,
    computing: Line,
    asking: Line,
    waiting_max: usize,
    /// Threads that compute, and threads that ask.
    threads: Mutex<[usize; 2]>,
    counters: PoolCounters,
    is_stopping: AtomicBool,
}

#[derive(Debug, Default)]
struct Line {
    /// What is asked, and where the answer goes.
    tasks: Mutex<VecDeque<(Arc<Mailbox>, Task)>>,
    ready: Condvar,
}

#[derive(Debug)]
struct Mailbox {
    verdicts: Mutex<Vec<(ConnKey, Verdict)>>,
    has_verdicts: AtomicBool,
    wake: Arc<Wake>,
}

impl Pool {
    /// Without threads yet; `secret` is 32 random bytes.
    pub fn new(sources: Sources, secret: &[u8; 32], waiting_max: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                sources: RwLock::new(Arc::new(sources)),
                memory: Memory::new(secret),
                computing: Line::default(),
                asking: Line::default(),
                waiting_max,
                threads: Mutex::default(),
                counters: PoolCounters::default(),
                is_stopping: AtomicBool::new(false),
            }),
        }
    }

    /// Starts threads until there are so many; those there are stay.
    ///
    /// Errors: what the system said when it refused a thread.
    pub fn grow(&self, size: PoolSize) -> io::Result<()> {
        let mut threads = lock(&self.shared.threads);
        while threads[0] < size.computing {
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name(format!("auth-{}", threads[0]));
            thread.spawn(move || shared.work(&shared.computing))?;
            threads[0] += 1;
        }
        while threads[1] < size.asking {
            let shared = Arc::clone(&self.shared);
            let thread = thread::Builder::new().name(format!("auth-http-{}", threads[1]));
            thread.spawn(move || shared.work(&shared.asking))?;
            threads[1] += 1;
        }
        Ok(())
    }

    /// The end of the core that `wake` wakes.
    pub fn link(&self, wake: Arc<Wake>) -> AuthLink {
        let mailbox = Mailbox {
            verdicts: Mutex::default(),
            has_verdicts: AtomicBool::new(false),
            wake,
        };
        AuthLink {
            mailbox: Arc::new(mailbox),
            shared: Arc::clone(&self.shared),
        }
    }

    /// By what it judges.
    pub fn sources(&self) -> Arc<Sources> {
        self.shared.sources()
    }

    /// Judges by these from now on.
    pub fn replace(&self, sources: Sources) {
        let mut current = self
            .shared
            .sources
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *current = Arc::new(sources);
    }

    /// What was done so far.
    pub fn counters(&self) -> &PoolCounters {
        &self.shared.counters
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        self.shared.is_stopping.store(true, Ordering::Release);
        for line in [&self.shared.computing, &self.shared.asking] {
            // With the lock, so that nobody misses it between its look and its wait.
            let _tasks = lock(&line.tasks);
            line.ready.notify_all();
        }
    }
}

impl AuthLink {
    /// Leaves a task, or answers at once: from memory, or because too many wait.
    pub fn submit(&self, task: Task) -> Option<Verdict> {
        let shared = &*self.shared;
        let sources = shared.sources();
        let verifier = Verifier {
            sources: &sources,
            memory: &shared.memory,
        };
        if let Some(verdict) = verifier.recall(&task) {
            shared.counters.recalled.fetch_add(1, Ordering::Relaxed);
            return Some(verdict);
        }
        let line = if task.method == AuthMethod::Http {
            &shared.asking
        } else {
            &shared.computing
        };
        let mut tasks = lock(&line.tasks);
        if tasks.len() >= shared.waiting_max {
            // Those that gave up make room before anybody is turned away.
            tasks.retain(|(_, task)| task.request.wanted.strong_count() > 0);
        }
        if tasks.len() >= shared.waiting_max {
            shared.counters.busy.fetch_add(1, Ordering::Relaxed);
            return Some(Verdict::Refused {
                reason: ReasonCode::ServerBusy,
                what: "login.waiting-max: too many clients wait to be authenticated",
            });
        }
        tasks.push_back((Arc::clone(&self.mailbox), task));
        drop(tasks);
        line.ready.notify_one();
        None
    }

    /// Whether [`AuthLink::poll`] has something to tell.
    pub fn has_news(&self) -> bool {
        self.mailbox.has_verdicts.load(Ordering::Relaxed)
    }

    /// The oldest verdicts, `count_max` at most; of more there is news still.
    pub fn poll(&self, count_max: usize) -> Vec<(ConnKey, Verdict)> {
        if !self.has_news() || !self.mailbox.has_verdicts.swap(false, Ordering::Acquire) {
            return Vec::new();
        }
        let mut verdicts = lock(&self.mailbox.verdicts);
        let count = count_max.min(verdicts.len());
        let rest = verdicts.split_off(count);
        if !rest.is_empty() {
            self.mailbox.has_verdicts.store(true, Ordering::Release);
        }
        replace(&mut *verdicts, rest)
    }
}

impl Shared {
    fn sources(&self) -> Arc<Sources> {
        // It is replaced as a whole, so a panic elsewhere leaves no half of it.
        Arc::clone(&self.sources.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// One thread, until the pool ends.
    fn work(&self, line: &Line) {
        lower_priority();
        while let Some((mailbox, task)) = self.next(line) {
            if task.request.wanted.strong_count() == 0 {
                self.counters.abandoned.fetch_add(1, Ordering::Relaxed);
                continue;
            }
            let sources = self.sources();
            let verifier = Verifier {
                sources: &sources,
                memory: &self.memory,
            };
            let verdict = verifier.judge(&task);
            self.counters.judged.fetch_add(1, Ordering::Relaxed);
            lock(&mailbox.verdicts).push((task.request.conn, verdict));
            mailbox.has_verdicts.store(true, Ordering::Release);
            mailbox.wake.wake();
        }
    }

    /// Waits for a task; none when the pool has ended.
    fn next(&self, line: &Line) -> Option<(Arc<Mailbox>, Task)> {
        let mut tasks = lock(&line.tasks);
        loop {
            if self.is_stopping.load(Ordering::Acquire) {
                return None;
            }
            if let Some(task) = tasks.pop_front() {
                return Some(task);
            }
            tasks = line
                .ready
                .wait(tasks)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A queue is whole whatever a thread that panicked did with what it took from it.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Of this thread alone: that is what Linux takes 0 for. When it is refused, all threads are equal, which is no failure.
fn lower_priority() {
    // SAFETY: the call takes three numbers and touches no memory of ours.
    unsafe {
        libc::setpriority(libc::PRIO_PROCESS, 0, NICENESS);
    }
}

#[cfg(test)]
mod tests {
    use super::super::hash::{HashKind, PasswordHash};
    use super::super::users::Users;
    use super::*;
    use crate::shard::credentials::{AuthRequest, Proof};
    use std::sync::Weak;
    use std::time::{Duration, Instant};

    const PATIENCE: Duration = Duration::from_secs(60);

    fn sources(password: &[u8]) -> Sources {
        let hash = PasswordHash::new(HashKind::Sha512Pbkdf2, password, [9; 16]);
        let users = Users::parse("users", &format!("al:{hash}\n"), &[1; 32]);
        Sources {
            users: Some(users.expect("valid")),
            ..Sources::default()
        }
    }

    fn pool(threads: usize, waiting_max: usize) -> (Pool, AuthLink) {
        let pool = Pool::new(sources(b"secret"), &[2; 32], waiting_max);
        let size = PoolSize {
            computing: threads,
            asking: 0,
        };
        pool.grow(size).expect("threads");
        let link = pool.link(Arc::new(Wake::new().expect("an eventfd")));
        (pool, link)
    }

    fn task(index: u32, password: &[u8], wanted: Weak<()>) -> Task {
        let conn = ConnKey {
            index,
            generation: 0,
        };
        let proof = Proof::Password {
            username: Some("al".into()),
            password: Some(password.into()),
        };
        Task {
            request: AuthRequest {
                conn,
                wanted,
                client_id: "c".into(),
                certified: None,
                proof,
            },
            method: AuthMethod::Password,
            listener: "tcp".into(),
            peer: None,
        }
    }

    fn wait_for(link: &AuthLink, count: usize) -> Vec<(ConnKey, Verdict)> {
        let start = Instant::now();
        let mut all = Vec::new();
        while all.len() < count {
            assert!(start.elapsed() < PATIENCE, "{all:?}");
            all.extend(link.poll(1));
            thread::sleep(Duration::from_millis(1));
        }
        all
    }

    fn is_granted(verdict: &Verdict) -> bool {
        matches!(verdict, Verdict::Granted { .. })
    }

    #[test]
    fn verdicts_come_back_and_are_remembered() {
        let (pool, link) = pool(2, 100);
        let wanted = Arc::new(());
        for n in 0..10 {
            let password: &[u8] = if n == 3 { b"wrong" } else { b"secret" };
            let verdict = link.submit(task(n, password, Arc::downgrade(&wanted)));
            assert!(verdict.is_none_or(|verdict| is_granted(&verdict)));
        }
        let late = 10 - pool.counters().recalled.load(Ordering::Relaxed) as usize;
        for (conn, verdict) in wait_for(&link, late) {
            assert_eq!(is_granted(&verdict), conn.index != 3);
        }
        let again = link.submit(task(11, b"secret", Arc::downgrade(&wanted)));
        assert!(again.is_some_and(|verdict| is_granted(&verdict)));
        pool.replace(sources(b"other"));
        assert!(
            link.submit(task(12, b"secret", Arc::downgrade(&wanted)))
                .is_none()
        );
        let verdicts = wait_for(&link, 1);
        assert!(!is_granted(&verdicts[0].1));
    }

    #[test]
    fn a_line_is_bounded_and_those_who_left_make_room() {
        let (pool, link) = pool(0, 2);
        let (leaves, stays) = (Arc::new(()), Arc::new(()));
        assert!(
            link.submit(task(0, b"a", Arc::downgrade(&leaves)))
                .is_none()
        );
        assert!(link.submit(task(1, b"b", Arc::downgrade(&stays))).is_none());
        let third = || link.submit(task(2, b"c", Arc::downgrade(&stays)));
        let busy = third().expect("answered at once");
        assert!(matches!(
            busy,
            Verdict::Refused {
                reason: ReasonCode::ServerBusy,
                ..
            }
        ));
        drop(leaves);
        assert!(third().is_none());
        assert_eq!(pool.counters().busy.load(Ordering::Relaxed), 1);
    }

    #[test]
    fn nothing_is_computed_for_those_who_left() {
        let (pool, link) = pool(1, 100);
        let stays = Arc::new(());
        for n in 0..20_u32 {
            assert!(
                link.submit(task(n, &n.to_le_bytes(), Weak::new()))
                    .is_none()
            );
        }
        assert!(
            link.submit(task(99, b"wrong", Arc::downgrade(&stays)))
                .is_none()
        );
        let verdicts = wait_for(&link, 1);
        assert_eq!(verdicts[0].0.index, 99);
        assert_eq!(pool.counters().abandoned.load(Ordering::Relaxed), 20);
        assert_eq!(pool.counters().judged.load(Ordering::Relaxed), 1);
    }
}
