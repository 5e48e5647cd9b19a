//! One `io_uring` instance per core, behind an interface without `unsafe`.
//!
//! The broker's driver and the load generator use the same ring. It knows sockets only as descriptors and
//! the caller's [`Key`]; what a key stands for is the caller's business.
//!
//! # What goes through the ring, and what does not
//!
//! Accepting, receiving, connecting, waiting until a socket can take more bytes, and the core's eventfd. Writes do
//! not: `net::writer` calls `sendmsg` without blocking, and only when the socket is full does the ring wait
//! for it ([`Ring::poll_writable`]). Measured, that costs the same as a SEND entry, and it means that **no
//! memory of ours is ever lent to the kernel for the length of an operation**, except the receive buffers,
//! which belong to the ring.
//!
//! # Receive buffers
//!
//! All sockets of a ring share one set of buffers, so a socket that is waiting for data owns none. The
//! kernel picks a buffer when data arrives and names it in the completion, which is where the caller gets
//! it as a [`Buffer`]: a token that can neither be copied nor made up.
//!
//! * From the completion until [`Ring::recycle`] the kernel does not touch the buffer, and [`Ring::bytes`]
//!   shows its bytes. `recycle` takes the token, so nobody can look at a buffer that the kernel owns again.
//! * A caller may keep a token over any number of turns. Buffers that are kept are missing for receiving.
//!   When none is left a receive ends with [`Received::NoBuffers`]: recycle first, then arm it again.
//! * A token that is dropped loses its buffer until the ring is dropped; `recycle` is the only way back.
//! * A socket on which much is on its way is better read at once than in many small pieces: it is waited for
//!   ([`Ring::poll_readable`]), and then read by a call ([`Ring::read`]) into the one large buffer, which stays in the cache. The
//!   kernel never has that buffer longer than the call lasts.
//! * The memory is unregistered and freed with the ring, which is after the last token can be used:
//!   `bytes` needs the ring.
//!
//! # Completions
//!
//! The ring defers its work to the thread that owns it (`SINGLE_ISSUER`, `DEFER_TASKRUN`), so another
//! core's traffic never interrupts this one. The price is that completions appear only inside
//! [`Ring::submit`] or [`Ring::wait`], and about twenty per call: call until nothing comes back before
//! going to sleep.
//!
//! Multishot operations report `more`: while it is true the operation is still armed; after a completion
//! with `more == false` it is gone, whatever its result was. The kernel's answers are values; none panics.
//!
//! Sockets and listeners must be in *blocking* mode: the kernel fails an operation on a non-blocking one
//! with EAGAIN instead of waiting.

use io_uring::types::{BufRingEntry, CancelBuilder, Fd, SubmitArgs, Timespec};
use io_uring::{EnterFlags, IoUring, cqueue, opcode, squeue};
use socket2::SockAddr;
use std::alloc::{Layout, alloc_zeroed, dealloc};
use std::collections::VecDeque;
use std::fmt;
use std::fs::File;
use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU16, AtomicU32, Ordering};
use std::time::Duration;

/// The only buffer group of a ring.
const BUFFER_GROUP: u16 = 0;
/// The size of the buffer of [`Ring::read`], in bytes.
pub const READ_BYTES_MAX: usize = 256 << 10;
/// The id of that buffer, which is no buffer of the group.
const READ_ID: u16 = u16::MAX;
/// What the kernel requires of a buffer ring's address.
const PAGE_BYTES: usize = 4096;
/// The kernel's limit on the entries of a buffer ring.
const BUFFER_COUNT_MAX: u16 = 1 << 15;

/// The sizes of a ring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingConfig {
    /// Operations that fit between two submits without waiting in user space; a power of two.
    pub submission_entries: u32,
    /// Completions that fit before the kernel has to queue them elsewhere; a power of two.
    pub completion_entries: u32,
    /// Receive buffers; a power of two, at most 32,768.
    pub buffer_count: u16,
    /// Bytes of each.
    pub buffer_bytes: u32,
}

impl Default for RingConfig {
    fn default() -> Self {
        Self {
            submission_entries: 1024,
            completion_entries: 8192,
            buffer_count: 256,
            buffer_bytes: 8 << 10,
        }
    }
}

/// Why a ring cannot be had.
#[derive(Debug)]
pub enum RingError {
    /// The system forbids io_uring: a container's seccomp profile, or `kernel.io_uring_disabled`.
    Forbidden(io::Error),
    /// The kernel was built without io_uring, or hides it.
    Missing(io::Error),
    /// The kernel knows io_uring but not all that is needed; Linux 6.1 does.
    TooOld(io::Error),
    /// The memory cannot be locked: RLIMIT_MEMLOCK, or the machine is out of memory. Locked memory of a
    /// process that ended is given back with some delay, so this may pass.
    NoMemory(io::Error),
    /// The process or the machine is out of descriptors.
    NoDescriptors(io::Error),
    /// Something else, in the named step.
    Other {
        /// The call that failed.
        step: &'static str,
        /// What it said.
        source: io::Error,
    },
}

impl RingError {
    fn from_setup(source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::EPERM | libc::EACCES) => Self::Forbidden(source),
            Some(libc::ENOSYS) => Self::Missing(source),
            Some(libc::EINVAL) => Self::TooOld(source),
            _ => Self::from_step("io_uring_setup", source),
        }
    }

    fn from_step(step: &'static str, source: io::Error) -> Self {
        match source.raw_os_error() {
            Some(libc::ENOMEM) => Self::NoMemory(source),
            Some(libc::EMFILE | libc::ENFILE) => Self::NoDescriptors(source),
            _ => Self::Other { step, source },
        }
    }
}

impl fmt::Display for RingError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Forbidden(source) => write!(
                f,
                "io_uring is forbidden here ({source}); allow it in the container's seccomp profile \
                 or set kernel.io_uring_disabled=0"
            ),
            Self::Missing(source) => write!(f, "this kernel offers no io_uring ({source})"),
            Self::TooOld(source) => {
                write!(
                    f,
                    "this kernel's io_uring is too old ({source}); Linux 6.1 or later is needed"
                )
            }
            Self::NoMemory(source) => write!(
                f,
                "no memory for io_uring ({source}); raise the limit on locked memory (ulimit -l, \
                 LimitMEMLOCK=) to 1 MiB per core or more"
            ),
            Self::NoDescriptors(source) => {
                write!(
                    f,
                    "no descriptors left ({source}); raise the limit on open files (ulimit -n)"
                )
            }
            Self::Other { step, source } => write!(f, "{step} failed: {source}"),
        }
    }
}

impl std::error::Error for RingError {}

/// What the caller calls a socket: given with an operation, returned with its completions.
///
/// `generation` lets the caller tell a late completion for an old user of a slot from one for its successor.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// The caller's slot, below [`Key::INDEX_END`].
    pub index: u32,
    /// Which user of the slot.
    pub generation: u32,
}

impl Key {
    /// One more than the largest index: four bits of an operation's user data name the operation.
    pub const INDEX_END: u32 = 1 << 28;
}

/// One thing the kernel finished.
#[derive(Debug)]
pub enum Completion {
    /// A listener has a connection, or cannot accept.
    Accepted {
        /// The listener.
        key: Key,
        /// The new socket, in blocking mode, close-on-exec.
        socket: io::Result<OwnedFd>,
        /// Whether the operation is still armed.
        more: bool,
    },
    /// A receive has news.
    Received {
        /// The socket.
        key: Key,
        /// What came.
        received: Received,
        /// Whether the operation is still armed.
        more: bool,
    },
    /// A connect ended.
    Connected {
        /// The socket.
        key: Key,
        /// How.
        result: io::Result<()>,
    },
    /// A socket can take bytes again, or has failed: the next write tells which.
    Writable {
        /// The socket.
        key: Key,
    },
    /// Another thread wrote the eventfd of [`Ring::watch`].
    Woken {
        /// Whether the operation is still armed.
        more: bool,
    },
}

/// The result of a receive.
#[derive(Debug)]
pub enum Received {
    /// Bytes, to be read with [`Ring::bytes`] and given back with [`Ring::recycle`].
    Bytes(Buffer),
    /// There is something for [`Ring::read`].
    Readable,
    /// The peer closed its sending side.
    Eof,
    /// No buffer was free; the data is still in the socket.
    NoBuffers,
    /// The operation was cancelled or interrupted before there was data.
    Cancelled,
    /// The socket failed.
    Failed(io::Error),
}

/// The right to read one receive buffer; see the module documentation.
#[derive(Debug)]
#[must_use = "a buffer that is not recycled is lost for receiving"]
pub struct Buffer {
    index: u16,
    len: u32,
    ring: u32,
}

impl Buffer {
    /// Bytes received, at least one.
    pub fn len(&self) -> usize {
        self.len as usize
    }

    /// Never: a receive without bytes has no buffer.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// An eventfd, for waking a core: close-on-exec, in blocking mode as a waiting read needs it.
pub fn eventfd() -> io::Result<File> {
    // SAFETY: the call takes no pointers.
    let fd = unsafe { libc::eventfd(0, libc::EFD_CLOEXEC) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just made this descriptor for us and nobody else has it.
    Ok(unsafe { File::from_raw_fd(fd) })
}

/// One ring. It stays on the thread that made it: the kernel lets no other thread use it.
pub struct Ring {
    ring: IoUring,
    buffers: BufferRing,
    /// What `read` reads into. Zeroed, so that it comes from the system untouched, and costs nothing until it is read into.
    read_bytes: Vec<u8>,
    /// There is a token for it.
    read_is_out: bool,
    /// Operations that did not fit the submission queue, oldest first.
    waiting: VecDeque<squeue::Entry>,
    /// Addresses of connects that the kernel has not read yet.
    #[expect(
        clippy::vec_box,
        reason = "the kernel has their addresses, so they must not move"
    )]
    connect_addresses: Vec<Box<SockAddr>>,
    /// What sets this ring's buffers apart from another ring's.
    number: u32,
    /// `!Send`: see `SINGLE_ISSUER`.
    thread: PhantomData<*const ()>,
}

impl fmt::Debug for Ring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Ring")
            .field("buffers_free", &self.buffers.free)
            .field("waiting", &self.waiting.len())
            .finish_non_exhaustive()
    }
}

impl Ring {
    /// A ring with its buffers, for the calling thread.
    ///
    /// Errors: what the kernel refused, and why that may be; nothing is left behind.
    /// Panics: when a size in `config` is not what its documentation asks for.
    pub fn new(config: RingConfig) -> Result<Self, RingError> {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let ring = IoUring::builder()
            .setup_single_issuer()
            .setup_defer_taskrun()
            .setup_taskrun_flag()
            .setup_submit_all()
            .setup_cqsize(config.completion_entries)
            .build(config.submission_entries)
            .map_err(RingError::from_setup)?;
        let buffers = BufferRing::new(config.buffer_count, config.buffer_bytes);
        // SAFETY: `entries` points to `count` entries that live until `Drop` has unregistered them.
        unsafe {
            ring.submitter().register_buf_ring_with_flags(
                buffers.entries.as_ptr() as u64,
                buffers.count,
                BUFFER_GROUP,
                0,
            )
        }
        .map_err(|source| {
            RingError::from_step("io_uring_register of the receive buffers", source)
        })?;
        let mut ring = Self {
            ring,
            buffers,
            read_bytes: vec![0; READ_BYTES_MAX],
            read_is_out: false,
            waiting: VecDeque::new(),
            connect_addresses: Vec::new(),
            number: NUMBER.fetch_add(1, Ordering::Relaxed),
            thread: PhantomData,
        };
        for index in 0..ring.buffers.count {
            ring.buffers.offer(index);
        }
        Ok(ring)
    }

    /// Arms a multishot accept on a listening socket.
    pub fn accept(&mut self, listener: impl AsFd, key: Key) {
        let fd = Fd(listener.as_fd().as_raw_fd());
        let entry = opcode::AcceptMulti::new(fd)
            .flags(libc::SOCK_CLOEXEC)
            .build();
        self.push(entry, Operation::Accept, key);
    }

    /// Accepts one connection on a listening socket; there may be several such operations with one key.
    pub fn accept_once(&mut self, listener: impl AsFd, key: Key) {
        let fd = Fd(listener.as_fd().as_raw_fd());
        let entry = opcode::Accept::new(fd, std::ptr::null_mut(), std::ptr::null_mut())
            .flags(libc::SOCK_CLOEXEC)
            .build();
        self.push(entry, Operation::Accept, key);
    }

    /// Arms a receive that completes once.
    pub fn recv_once(&mut self, socket: impl AsFd, key: Key) {
        let fd = Fd(socket.as_fd().as_raw_fd());
        let entry = opcode::Recv::new(fd, std::ptr::null_mut(), 0)
            .buf_group(BUFFER_GROUP)
            .build()
            .flags(squeue::Flags::BUFFER_SELECT);
        self.push(entry, Operation::Recv, key);
    }

    /// Arms a receive that stays armed until it says otherwise.
    pub fn recv_multi(&mut self, socket: impl AsFd, key: Key) {
        let fd = Fd(socket.as_fd().as_raw_fd());
        self.push(
            opcode::RecvMulti::new(fd, BUFFER_GROUP).build(),
            Operation::Recv,
            key,
        );
    }

    /// Completes once with [`Received::Readable`] when there is something to receive, or the socket has ended or failed; it is
    /// cancelled as a receive is.
    pub fn poll_readable(&mut self, socket: impl AsFd, key: Key) {
        let fd = Fd(socket.as_fd().as_raw_fd());
        let entry = opcode::PollAdd::new(fd, libc::POLLIN as u32).build();
        self.push(entry, Operation::Recv, key);
    }

    /// Receives what is there, at most `bytes_max` or [`READ_BYTES_MAX`] bytes, without waiting; [`Received::Cancelled`] when
    /// nothing is. A system call, for a socket on which no receive is armed: it would take what this one should.
    ///
    /// Panics: when the buffer of the last call was not given back, or `bytes_max` is 0.
    pub fn read(&mut self, socket: impl AsFd, bytes_max: usize) -> Received {
        assert!(!self.read_is_out, "one buffer, one token");
        assert!(
            bytes_max > 0,
            "without room nothing could be told from the end"
        );
        let room = bytes_max.min(READ_BYTES_MAX);
        let fd = socket.as_fd().as_raw_fd();
        let to = &mut self.read_bytes[..room];
        // SAFETY: the kernel writes into `to`, which is borrowed for the length of the call, and no further.
        let count = unsafe { libc::recv(fd, to.as_mut_ptr().cast(), to.len(), libc::MSG_DONTWAIT) };
        match count {
            1.. => {
                self.read_is_out = true;
                Received::Bytes(Buffer {
                    index: READ_ID,
                    len: count as u32,
                    ring: self.number,
                })
            }
            0 => Received::Eof,
            _ => recv_failed(io::Error::last_os_error().raw_os_error().unwrap_or(0)),
        }
    }

    /// Connects a socket.
    pub fn connect(&mut self, socket: impl AsFd, address: SockAddr, key: Key) {
        let address = Box::new(address);
        let fd = Fd(socket.as_fd().as_raw_fd());
        let entry = opcode::Connect::new(fd, address.as_ptr().cast(), address.len()).build();
        self.connect_addresses.push(address);
        self.push(entry, Operation::Connect, key);
    }

    /// Completes once when the socket can take bytes, or has failed.
    pub fn poll_writable(&mut self, socket: impl AsFd, key: Key) {
        let fd = Fd(socket.as_fd().as_raw_fd());
        let entry = opcode::PollAdd::new(fd, libc::POLLOUT as u32).build();
        self.push(entry, Operation::Writable, key);
    }

    /// Ends the accepts with this key, each of which then completes with `more == false`.
    pub fn cancel_accept(&mut self, key: Key) {
        let accepts = CancelBuilder::user_data(pack(Operation::Accept, key)).all();
        let entry = opcode::AsyncCancel2::new(accepts).build();
        self.push(entry, Operation::Internal, key);
    }

    /// Ends the receive with this key, which then completes with `more == false`; data may still come first.
    pub fn cancel_recv(&mut self, key: Key) {
        self.cancel(Operation::Recv, key);
    }

    /// Ends the wait for writability with this key, which then completes.
    pub fn cancel_writable(&mut self, key: Key) {
        self.cancel(Operation::Writable, key);
    }

    /// Completes whenever another thread writes `eventfd`, which nobody has to read, until it says otherwise.
    pub fn watch(&mut self, eventfd: &File) {
        let entry = opcode::PollAdd::new(Fd(eventfd.as_raw_fd()), libc::POLLIN as u32).multi(true);
        let key = Key {
            index: 0,
            generation: 0,
        };
        self.push(entry.build(), Operation::Wake, key);
    }

    /// Hands the armed operations to the kernel and lets it do the work it has deferred; never waits.
    ///
    /// Costs one system call, and none when there is nothing to hand over and no work was deferred.
    ///
    /// Errors: only what makes the ring useless. What may pass (no memory for a request, a signal) is
    /// tried again by the next call.
    pub fn submit(&mut self) -> io::Result<()> {
        loop {
            self.refill();
            let submission = self.ring.submission();
            let armed = submission.len();
            if armed == 0 && !submission.taskrun() && !submission.cq_overflow() {
                return Ok(());
            }
            drop(submission);
            if self.enter(armed)? < armed || self.waiting.is_empty() {
                return Ok(());
            }
        }
    }

    /// Like [`Ring::submit`], then waits for at least one completion, at most `timeout`.
    pub fn wait(&mut self, timeout: Duration) -> io::Result<()> {
        self.submit()?;
        let timeout = Timespec::from(timeout);
        let waited = self
            .ring
            .submitter()
            .submit_with_args(1, &SubmitArgs::new().timespec(&timeout));
        match waited.map_err(|error| (error.raw_os_error(), error)) {
            Ok(_) => Ok(()),
            Err((Some(libc::ETIME | libc::EINTR | libc::EAGAIN | libc::EBUSY), _)) => Ok(()),
            Err((_, error)) => Err(error),
        }
    }

    /// The oldest completion not yet taken, if any.
    pub fn next_completion(&mut self) -> Option<Completion> {
        loop {
            let entry = self.ring.completion().next()?;
            if let Some(completion) = self.interpret(&entry) {
                return Some(completion);
            }
        }
    }

    /// Whether completions can be taken, or deferred work or armed operations wait for a `submit`.
    pub fn has_work(&mut self) -> bool {
        if !self.ring.completion().is_empty() || !self.waiting.is_empty() {
            return true;
        }
        let submission = self.ring.submission();
        !submission.is_empty() || submission.taskrun() || submission.cq_overflow()
    }

    /// The bytes of a buffer.
    ///
    /// Panics: when the buffer is another ring's.
    pub fn bytes(&self, buffer: &Buffer) -> &[u8] {
        assert!(
            buffer.ring == self.number,
            "a buffer belongs to the ring that filled it"
        );
        match buffer.index {
            READ_ID => &self.read_bytes[..buffer.len as usize],
            index => self.buffers.bytes(index, buffer.len),
        }
    }

    /// The size of a receive buffer, in bytes.
    pub fn buffer_bytes(&self) -> usize {
        self.buffers.buffer_bytes as usize
    }

    /// Whether a receive filled the buffer, so that there may be more.
    pub fn is_full(&self, buffer: &Buffer) -> bool {
        buffer.len == self.buffers.buffer_bytes
    }

    /// Gives a buffer back.
    ///
    /// Panics: when the buffer is another ring's.
    pub fn recycle(&mut self, buffer: Buffer) {
        assert!(
            buffer.ring == self.number,
            "a buffer belongs to the ring that filled it"
        );
        match buffer.index {
            READ_ID => self.read_is_out = false,
            index => self.buffers.offer(index),
        }
    }

    /// Buffers that the kernel has not filled; those that are neither free nor held as a [`Buffer`] are
    /// in completions not yet taken.
    pub fn buffers_free(&self) -> usize {
        usize::from(self.buffers.free)
    }

    /// Whether the kernel has put off work that the next `submit` would do.
    pub fn has_deferred_work(&mut self) -> bool {
        self.ring.submission().taskrun()
    }

    fn cancel(&mut self, operation: Operation, key: Key) {
        let entry = opcode::AsyncCancel::new(pack(operation, key)).build();
        self.push(entry, Operation::Internal, key);
    }

    fn push(&mut self, entry: squeue::Entry, operation: Operation, key: Key) {
        let entry = entry.user_data(pack(operation, key));
        // SAFETY: of all operations only two point to memory: a receive to the buffer ring, which
        // lives as long as the ring, and a connect to an address in `connect_addresses`, which `enter`
        // keeps until the kernel has read it, while it takes the entry from the queue.
        if !self.waiting.is_empty() || unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.waiting.push_back(entry);
        }
    }

    /// Moves what waits into the submission queue.
    fn refill(&mut self) {
        while let Some(entry) = self.waiting.front() {
            // SAFETY: as in `push`, from where the entry comes.
            if unsafe { self.ring.submission().push(entry) }.is_err() {
                return;
            }
            self.waiting.pop_front();
        }
    }

    /// Submits `armed` entries and returns how many the kernel took.
    fn enter(&mut self, armed: usize) -> io::Result<usize> {
        let submitter = self.ring.submitter();
        let count = u32::try_from(armed).expect("the queue's length is a u32");
        // SAFETY: there is no argument, so the call points to nothing.
        let entered = unsafe {
            submitter.enter::<libc::sigset_t>(count, 0, EnterFlags::GETEVENTS.bits(), None)
        };
        match entered.map_err(|error| (error.raw_os_error(), error)) {
            Ok(taken) => {
                if taken >= armed && self.waiting.is_empty() {
                    self.connect_addresses.clear();
                }
                Ok(taken)
            }
            Err((Some(libc::EINTR | libc::EAGAIN | libc::EBUSY), _)) => Ok(0),
            Err((_, error)) => Err(error),
        }
    }

    /// What an entry says; `None` when it only ends a cancel or the like.
    fn interpret(&mut self, entry: &cqueue::Entry) -> Option<Completion> {
        let (operation, key) = unpack(entry.user_data());
        let more = cqueue::more(entry.flags());
        let result = match entry.result() {
            error if error < 0 => Err(error.saturating_neg()),
            count => Ok(count),
        };
        match operation {
            Operation::Accept => {
                // SAFETY: a successful accept's result is a new descriptor that nobody else has.
                let socket = result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd) });
                let socket = socket.map_err(io::Error::from_raw_os_error);
                Some(Completion::Accepted { key, socket, more })
            }
            Operation::Recv => {
                let buffer = cqueue::buffer_select(entry.flags());
                let received = self.interpret_recv(result, buffer);
                Some(Completion::Received {
                    key,
                    received,
                    more,
                })
            }
            Operation::Connect => {
                let result = result.map(drop).map_err(io::Error::from_raw_os_error);
                Some(Completion::Connected { key, result })
            }
            Operation::Writable => Some(Completion::Writable { key }),
            Operation::Wake => Some(Completion::Woken { more }),
            Operation::Internal => None,
        }
    }

    fn interpret_recv(&mut self, result: Result<i32, i32>, buffer: Option<u16>) -> Received {
        let buffer = buffer.filter(|index| *index < self.buffers.count);
        if let Some(index) = buffer {
            self.buffers.free -= 1;
            if let Ok(len @ 1..) = result {
                let len = len.unsigned_abs().min(self.buffers.buffer_bytes);
                return Received::Bytes(Buffer {
                    index,
                    len,
                    ring: self.number,
                });
            }
            self.buffers.offer(index);
        }
        match result {
            Ok(0) => Received::Eof,
            // Only a poll says something without a buffer.
            Ok(_) => Received::Readable,
            Err(errno) => recv_failed(errno),
        }
    }
}

fn recv_failed(errno: i32) -> Received {
    match errno {
        libc::ENOBUFS => Received::NoBuffers,
        libc::ECANCELED | libc::EINTR | libc::EAGAIN => Received::Cancelled,
        _ => Received::Failed(io::Error::from_raw_os_error(errno)),
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        // Sockets that were accepted but never looked at must not stay open.
        while self.next_completion().is_some() {}
        // After this no operation can pick a buffer any more, so their memory may go. It can only fail
        // when the group is not registered.
        let _ = self.ring.submitter().unregister_buf_ring(BUFFER_GROUP);
    }
}

/// What an operation's completion means; four bits of its user data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    /// Cancels: nobody waits for them.
    Internal = 0,
    Accept = 1,
    Recv = 2,
    Connect = 3,
    Writable = 4,
    Wake = 5,
}

fn pack(operation: Operation, key: Key) -> u64 {
    assert!(key.index < Key::INDEX_END);
    u64::from(key.generation) << 32 | u64::from(key.index) << 4 | operation as u64
}

fn unpack(user_data: u64) -> (Operation, Key) {
    let operation = match user_data & 0xF {
        1 => Operation::Accept,
        2 => Operation::Recv,
        3 => Operation::Connect,
        4 => Operation::Writable,
        5 => Operation::Wake,
        _ => Operation::Internal,
    };
    let index = (user_data >> 4) as u32 & (Key::INDEX_END - 1);
    (
        operation,
        Key {
            index,
            generation: (user_data >> 32) as u32,
        },
    )
}

/// The receive buffers and the ring of those that the kernel may fill.
struct BufferRing {
    /// `count` entries, page-aligned, shared with the kernel.
    entries: NonNull<BufRingEntry>,
    /// `count` buffers of `buffer_bytes` each.
    bytes: NonNull<u8>,
    count: u16,
    buffer_bytes: u32,
    /// Where the next buffer is offered; the kernel sees it in the ring.
    tail: u16,
    /// Buffers offered and not seen back.
    free: u16,
}

impl BufferRing {
    fn new(count: u16, buffer_bytes: u32) -> Self {
        assert!(count.is_power_of_two() && count <= BUFFER_COUNT_MAX);
        assert!(buffer_bytes >= 64);
        Self {
            entries: allocate(Self::entries_layout(count)).cast(),
            bytes: allocate(Self::bytes_layout(count, buffer_bytes)),
            count,
            buffer_bytes,
            tail: 0,
            free: 0,
        }
    }

    fn entries_layout(count: u16) -> Layout {
        Layout::from_size_align(usize::from(count) * size_of::<BufRingEntry>(), PAGE_BYTES)
            .expect("at most 512 KiB")
    }

    fn bytes_layout(count: u16, buffer_bytes: u32) -> Layout {
        // No greater alignment than the allocator gives by itself: only so does zeroed memory come from the system untouched, and
        // costs nothing until it is received into.
        Layout::from_size_align(
            usize::from(count) * buffer_bytes as usize,
            align_of::<u128>(),
        )
        .expect("the buffers fit the address space")
    }

    fn start(&self, index: u16) -> NonNull<u8> {
        assert!(index < self.count);
        // SAFETY: the offset is inside the allocation of `count` buffers.
        unsafe {
            self.bytes
                .add(usize::from(index) * self.buffer_bytes as usize)
        }
    }

    /// Lets the kernel fill buffer `index`. The caller must own it: it is new, or its token was given back.
    fn offer(&mut self, index: u16) {
        let address = self.start(index).as_ptr() as u64;
        let slot = usize::from(self.tail & (self.count - 1));
        // SAFETY: `slot` is below `count`, and the kernel reads a slot only after the tail has passed
        // it, so nobody else accesses this one. The setters leave alone the tail, which lies in the
        // first entry.
        let entry = unsafe { self.entries.add(slot).as_mut() };
        entry.set_addr(address);
        entry.set_len(self.buffer_bytes);
        entry.set_bid(index);
        self.tail = self.tail.wrapping_add(1);
        self.free += 1;
        // SAFETY: the tail is inside the first entry, aligned for a u16, and shared with the kernel,
        // which only reads it; all our accesses to it are atomic.
        let tail =
            unsafe { AtomicU16::from_ptr(BufRingEntry::tail(self.entries.as_ptr()).cast_mut()) };
        // Release: the kernel must see the entry when it sees the tail.
        tail.store(self.tail, Ordering::Release);
    }

    fn bytes(&self, index: u16, len: u32) -> &[u8] {
        assert!(len <= self.buffer_bytes);
        // SAFETY: `len` bytes from the start of a buffer are inside the allocation and initialised (it
        // was zeroed). The caller has the buffer's token, so the kernel does not write to it, and it
        // cannot be offered again while this borrow of `self` lives.
        unsafe { std::slice::from_raw_parts(self.start(index).as_ptr(), len as usize) }
    }
}

impl Drop for BufferRing {
    fn drop(&mut self) {
        // SAFETY: both were allocated in `new` with these layouts. `Ring::drop` has unregistered them
        // before its fields are dropped, so the kernel does not use them.
        unsafe {
            dealloc(
                self.entries.as_ptr().cast(),
                Self::entries_layout(self.count),
            );
            dealloc(
                self.bytes.as_ptr(),
                Self::bytes_layout(self.count, self.buffer_bytes),
            );
        }
    }
}

fn allocate(layout: Layout) -> NonNull<u8> {
    assert!(layout.size() > 0);
    // SAFETY: the size is not zero.
    let memory = unsafe { alloc_zeroed(layout) };
    NonNull::new(memory).unwrap_or_else(|| std::alloc::handle_alloc_error(layout))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::time::Instant;

    const SMALL: RingConfig = RingConfig {
        submission_entries: 8,
        completion_entries: 64,
        buffer_count: 4,
        buffer_bytes: 1024,
    };

    fn key(index: u32) -> Key {
        Key {
            index,
            generation: 7,
        }
    }

    /// The next completion, waiting up to 5 s for it.
    fn next(ring: &mut Ring) -> Completion {
        let deadline = Instant::now() + Duration::from_secs(5);
        while Instant::now() < deadline {
            if let Some(completion) = ring.next_completion() {
                return completion;
            }
            ring.wait(Duration::from_millis(100)).unwrap();
        }
        panic!("no completion within 5 s");
    }

    /// A receive, or what is cancelled like one, ends so.
    fn expect_cancelled(ring: &mut Ring) {
        assert!(matches!(
            next(ring),
            Completion::Received {
                received: Received::Cancelled,
                more: false,
                ..
            }
        ));
    }

    /// Whether nothing completes for a while.
    fn quiet(ring: &mut Ring) -> bool {
        ring.wait(Duration::from_millis(50)).unwrap();
        ring.next_completion().is_none()
    }

    fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        (near, listener.accept().unwrap().0)
    }

    #[test]
    fn user_data_keeps_operation_and_key() {
        for operation in [
            Operation::Internal,
            Operation::Accept,
            Operation::Recv,
            Operation::Connect,
            Operation::Writable,
            Operation::Wake,
        ] {
            for key in [
                Key {
                    index: 0,
                    generation: 0,
                },
                Key {
                    index: Key::INDEX_END - 1,
                    generation: u32::MAX,
                },
                Key {
                    index: 5,
                    generation: 1 << 31,
                },
            ] {
                assert_eq!(unpack(pack(operation, key)), (operation, key));
            }
        }
    }

    #[test]
    fn connects_accepts_and_receives() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let mut ring = Ring::new(SMALL).unwrap();
        ring.accept(&listener, key(1));
        let client =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        ring.connect(&client, listener.local_addr().unwrap().into(), key(2));
        let (mut server, mut connected) = (None, false);
        while server.is_none() || !connected {
            match next(&mut ring) {
                Completion::Accepted {
                    key: at,
                    socket,
                    more,
                } => {
                    assert_eq!((at, more), (key(1), true));
                    server = Some(TcpStream::from(socket.unwrap()));
                }
                Completion::Connected { key: at, result } => {
                    assert_eq!(at, key(2));
                    result.unwrap();
                    connected = true;
                }
                other => panic!("{other:?}"),
            }
        }
        ring.recv_once(&client, key(2));
        server.unwrap().write_all(b"hello").unwrap();
        let Completion::Received {
            received: Received::Bytes(buffer),
            more: false,
            ..
        } = next(&mut ring)
        else {
            panic!("expected bytes");
        };
        assert_eq!(ring.bytes(&buffer), b"hello");
        assert_eq!((buffer.len(), ring.buffers_free()), (5, 3));
        ring.recycle(buffer);
        assert_eq!(ring.buffers_free(), 4);
        ring.recv_once(&client, key(2));
        assert!(matches!(
            next(&mut ring),
            Completion::Received {
                received: Received::Eof,
                more: false,
                ..
            }
        ));
        ring.cancel_accept(key(1));
        let Completion::Accepted {
            socket,
            more: false,
            ..
        } = next(&mut ring)
        else {
            panic!("expected the end of the accept");
        };
        assert_eq!(socket.unwrap_err().raw_os_error(), Some(libc::ECANCELED));
    }

    #[test]
    fn a_refused_connect_is_a_value() {
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        let mut ring = Ring::new(SMALL).unwrap();
        let client =
            socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
        ring.connect(&client, port.into(), key(0));
        let Completion::Connected { result, .. } = next(&mut ring) else {
            panic!("expected connect")
        };
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::ConnectionRefused);
    }

    #[test]
    fn a_multishot_receive_stays_armed_and_buffers_come_round() {
        let (mut near, far) = pair();
        let mut ring = Ring::new(SMALL).unwrap();
        ring.recv_multi(&far, key(3));
        for round in 0..100u8 {
            near.write_all(&[round; 10]).unwrap();
            let Completion::Received {
                received: Received::Bytes(buffer),
                more: true,
                key: at,
            } = next(&mut ring)
            else {
                panic!("expected bytes");
            };
            assert_eq!((ring.bytes(&buffer), at), (&[round; 10][..], key(3)));
            ring.recycle(buffer);
        }
        drop(near);
        assert!(matches!(
            next(&mut ring),
            Completion::Received {
                received: Received::Eof,
                more: false,
                ..
            }
        ));
    }

    #[test]
    fn held_buffers_are_missing_and_nothing_is_lost() {
        let (mut near, far) = pair();
        let mut ring = Ring::new(SMALL).unwrap();
        let sent: Vec<u8> = (0..10_000u32).map(|n| (n % 251) as u8).collect();
        near.write_all(&sent).unwrap();
        near.shutdown(std::net::Shutdown::Write).unwrap();
        ring.recv_multi(&far, key(0));
        let (mut got, mut held, mut starved) = (Vec::new(), Vec::new(), 0);
        loop {
            match next(&mut ring) {
                Completion::Received {
                    received: Received::Bytes(buffer),
                    more,
                    ..
                } => {
                    got.extend_from_slice(ring.bytes(&buffer));
                    held.push(buffer);
                    if !more {
                        ring.recv_multi(&far, key(0));
                    }
                }
                Completion::Received {
                    received: Received::NoBuffers,
                    more: false,
                    ..
                } => {
                    assert_eq!((ring.buffers_free(), held.len()), (0, 4));
                    starved += 1;
                    held.drain(..).for_each(|buffer| ring.recycle(buffer));
                    ring.recv_multi(&far, key(0));
                }
                Completion::Received {
                    received: Received::Eof,
                    ..
                } => break,
                other => panic!("{other:?}"),
            }
        }
        assert!(starved > 0);
        assert!(got == sent);
    }

    #[test]
    fn a_readable_socket_is_read_by_calls() {
        let (mut near, far) = pair();
        let mut ring = Ring::new(SMALL).unwrap();
        let is_readable = |completion| {
            matches!(
                completion,
                Completion::Received {
                    key: at,
                    received: Received::Readable,
                    more: false,
                } if at == key(2)
            )
        };
        ring.poll_readable(&far, key(2));
        assert!(quiet(&mut ring));
        let sent: Vec<u8> = (0..3_000u32).map(|n| (n % 251) as u8).collect();
        near.write_all(&sent).unwrap();
        assert!(is_readable(next(&mut ring)));
        let mut got = Vec::new();
        for (room, count) in [(1, 1), (2_000, 2_000), (usize::MAX, 999)] {
            let Received::Bytes(buffer) = ring.read(&far, room) else {
                panic!("expected bytes");
            };
            assert_eq!(buffer.len(), count);
            got.extend_from_slice(ring.bytes(&buffer));
            ring.recycle(buffer);
        }
        assert!(got == sent);
        assert!(matches!(ring.read(&far, 1), Received::Cancelled));
        assert_eq!(ring.buffers_free(), 4);
        drop(near);
        ring.poll_readable(&far, key(2));
        assert!(is_readable(next(&mut ring)));
        assert!(matches!(ring.read(&far, 1), Received::Eof));
    }

    #[test]
    fn a_wait_for_bytes_is_cancelled_as_a_receive_is() {
        let (_near, far) = pair();
        let mut ring = Ring::new(SMALL).unwrap();
        ring.poll_readable(&far, key(9));
        assert!(quiet(&mut ring));
        ring.cancel_recv(key(9));
        expect_cancelled(&mut ring);
    }

    #[test]
    #[should_panic(expected = "one buffer, one token")]
    fn what_was_read_is_given_back_before_more_is_read() {
        let (mut near, far) = pair();
        let mut ring = Ring::new(SMALL).unwrap();
        near.write_all(b"ab").unwrap();
        let _kept = ring.read(&far, 1);
        let _ = ring.read(&far, 1);
    }

    #[test]
    fn a_cancelled_receive_ends_and_loses_nothing() {
        let (mut near, far) = pair();
        let mut ring = Ring::new(SMALL).unwrap();
        ring.recv_multi(&far, key(9));
        assert!(quiet(&mut ring));
        ring.cancel_recv(key(9));
        expect_cancelled(&mut ring);
        near.write_all(b"later").unwrap();
        assert!(quiet(&mut ring), "a cancelled receive takes nothing");
        ring.recv_multi(&far, key(9));
        let Completion::Received {
            received: Received::Bytes(buffer),
            ..
        } = next(&mut ring)
        else {
            panic!("expected bytes");
        };
        assert_eq!(ring.bytes(&buffer), b"later");
        ring.recycle(buffer);
    }

    #[test]
    fn a_full_socket_is_writable_when_the_peer_reads() {
        let (mut near, mut far) = pair();
        let mut ring = Ring::new(SMALL).unwrap();
        near.set_nonblocking(true).unwrap();
        let mut written = 0;
        while let Ok(count) = near.write(&[1; 65_536]) {
            written += count;
        }
        ring.poll_writable(&near, key(4));
        assert!(quiet(&mut ring), "the socket is full");
        let mut read = 0;
        let mut chunk = vec![0; 65_536];
        while read < written {
            read += far.read(&mut chunk).unwrap();
        }
        assert!(matches!(next(&mut ring), Completion::Writable { key: at } if at == key(4)));
        ring.poll_writable(&near, key(4));
        assert!(matches!(next(&mut ring), Completion::Writable { .. }));
    }

    #[test]
    fn a_cancelled_wait_for_writability_completes() {
        let (mut near, _far) = pair();
        let mut ring = Ring::new(SMALL).unwrap();
        near.set_nonblocking(true).unwrap();
        while near.write(&[1; 65_536]).is_ok() {}
        ring.poll_writable(&near, key(4));
        ring.cancel_writable(key(4));
        assert!(matches!(next(&mut ring), Completion::Writable { .. }));
    }

    #[test]
    fn more_operations_than_the_queue_holds_all_happen() {
        let pairs: Vec<_> = (0..100).map(|_| pair()).collect();
        let mut ring = Ring::new(SMALL).unwrap();
        for (at, (near, far)) in pairs.iter().enumerate() {
            ring.recv_once(far, key(at as u32));
            let mut near: &TcpStream = near;
            near.write_all(&[at as u8]).unwrap();
        }
        let mut seen = [false; 100];
        for _ in 0..100 {
            loop {
                // Four buffers for a hundred sockets: some are told to try again.
                match next(&mut ring) {
                    Completion::Received {
                        key,
                        received: Received::Bytes(buffer),
                        ..
                    } => {
                        assert_eq!(ring.bytes(&buffer), [key.index as u8]);
                        ring.recycle(buffer);
                        assert!(!std::mem::replace(&mut seen[key.index as usize], true));
                        break;
                    }
                    Completion::Received {
                        key,
                        received: Received::NoBuffers,
                        ..
                    } => {
                        ring.recv_once(&pairs[key.index as usize].1, key);
                    }
                    other => panic!("{other:?}"),
                }
            }
        }
        assert!(seen.iter().all(|seen| *seen));
    }

    #[test]
    fn completions_beyond_the_queue_are_not_lost() {
        let pairs: Vec<_> = (0..300).map(|_| pair()).collect();
        let mut ring = Ring::new(SMALL).unwrap();
        for (at, (near, _)) in pairs.iter().enumerate() {
            ring.poll_writable(near, key(at as u32));
        }
        // All are writable at once; the completion queue has 64 places.
        ring.submit().unwrap();
        let mut seen = vec![0; 300];
        for _ in 0..300 {
            let Completion::Writable { key } = next(&mut ring) else {
                panic!("expected writable")
            };
            seen[key.index as usize] += 1;
        }
        assert!(seen.iter().all(|count| *count == 1));
    }

    #[test]
    fn each_write_of_the_eventfd_wakes_once_though_nobody_reads_it() {
        let mut ring = Ring::new(SMALL).unwrap();
        let eventfd = eventfd().unwrap();
        ring.watch(&eventfd);
        assert!(quiet(&mut ring));
        for _ in 0..3 {
            let writer = eventfd.try_clone().unwrap();
            let writer = std::thread::spawn(move || (&writer).write(&1u64.to_ne_bytes()).unwrap());
            assert!(matches!(next(&mut ring), Completion::Woken { more: true }));
            writer.join().unwrap();
            assert!(quiet(&mut ring));
        }
    }

    #[test]
    fn a_wait_without_completions_ends_in_time() {
        let mut ring = Ring::new(SMALL).unwrap();
        let start = Instant::now();
        ring.wait(Duration::from_millis(20)).unwrap();
        assert!(start.elapsed() >= Duration::from_millis(20));
        assert!(ring.next_completion().is_none());
    }

    #[test]
    #[should_panic(expected = "belongs to the ring that filled it")]
    fn a_buffer_of_another_ring_is_refused() {
        let (mut near, far) = pair();
        let mut ring = Ring::new(SMALL).unwrap();
        let mut other = Ring::new(SMALL).unwrap();
        near.write_all(b"a").unwrap();
        ring.recv_once(&far, key(0));
        let Completion::Received {
            received: Received::Bytes(buffer),
            ..
        } = next(&mut ring)
        else {
            panic!("expected bytes");
        };
        other.recycle(buffer);
    }
}
