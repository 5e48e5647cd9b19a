//! Writing to a socket: one system call for all that is ready, and it never waits.
//!
//! Writes do not go through the ring; `net::ring` says why. A socket that takes less than it was offered is
//! full: the caller waits for it with `Ring::poll_writable` and offers the rest again. The bytes stay the
//! caller's the whole time, so a connection can be closed at any point without asking the kernel first.

use socket2::SockRef;
use std::io::{self, IoSlice};
use std::os::fd::AsFd;

/// Slices gathered into one write.
pub const SLICES_MAX: usize = 64;
/// Bytes after which no further slice is gathered, so that one connection does not hold up a turn.
pub const BYTES_MAX: usize = 256 << 10;

/// What came of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Write {
    /// Bytes offered to the socket.
    pub offered: usize,
    /// Bytes it took, from the front.
    pub accepted: usize,
}

impl Write {
    /// Whether the socket is full.
    pub fn is_short(self) -> bool {
        self.accepted < self.offered
    }
}

/// Offers the socket the slices in order, as many as fit [`SLICES_MAX`] and [`BYTES_MAX`]; a single larger
/// slice is offered whole. Without slices nothing is called.
///
/// Errors: the socket has failed. That it is full is not an error.
pub fn write<'a>(
    socket: &impl AsFd,
    slices: impl IntoIterator<Item = &'a [u8]>,
) -> io::Result<Write> {
    let mut gathered = [IoSlice::new(&[]); SLICES_MAX];
    let (mut count, mut offered) = (0, 0);
    for slice in slices {
        gathered[count] = IoSlice::new(slice);
        count += 1;
        offered += slice.len();
        if count == SLICES_MAX || offered >= BYTES_MAX {
            break;
        }
    }
    if offered == 0 {
        return Ok(Write {
            offered: 0,
            accepted: 0,
        });
    }
    // MSG_NOSIGNAL: a peer that is gone is an error, not a SIGPIPE.
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    match SockRef::from(socket).send_vectored_with_flags(&gathered[..count], flags) {
        Ok(accepted) => Ok(Write { offered, accepted }),
        Err(error) if is_full(&error) => Ok(Write {
            offered,
            accepted: 0,
        }),
        Err(error) => Err(error),
    }
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::os::unix::net::UnixStream;

    #[test]
    fn slices_arrive_in_order() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let wrote = write(&near, [&b"one "[..], b"", b"two ", b"three"]).unwrap();
        assert_eq!(
            wrote,
            Write {
                offered: 13,
                accepted: 13
            }
        );
        drop(near);
        let mut text = String::new();
        far.read_to_string(&mut text).unwrap();
        assert_eq!(text, "one two three");
    }

    #[test]
    fn more_slices_than_fit_are_left_for_the_next_write() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let all: Vec<[u8; 1]> = (0..100).map(|n| [n]).collect();
        let wrote = write(&near, all.iter().map(|slice| &slice[..])).unwrap();
        assert_eq!(
            wrote,
            Write {
                offered: SLICES_MAX,
                accepted: SLICES_MAX
            }
        );
        let mut got = [0; SLICES_MAX];
        far.read_exact(&mut got).unwrap();
        assert!(
            got.iter()
                .enumerate()
                .all(|(at, byte)| usize::from(*byte) == at)
        );
    }

    #[test]
    fn a_full_socket_takes_part_and_then_nothing_without_waiting() {
        let (near, mut far) = UnixStream::pair().unwrap();
        let large = vec![7; 8 << 20];
        let first = write(&near, [&large[..]]).unwrap();
        assert!(first.is_short() && first.accepted > 0, "{first:?}");
        let mut total = first.accepted;
        loop {
            let next = write(&near, [&large[..1024]]).unwrap();
            total += next.accepted;
            if next.accepted == 0 {
                assert!(next.is_short());
                break;
            }
        }
        drop(near);
        let mut got = Vec::new();
        far.read_to_end(&mut got).unwrap();
        assert_eq!(got.len(), total);
    }

    #[test]
    fn a_peer_that_is_gone_is_an_error() {
        let (near, far) = UnixStream::pair().unwrap();
        drop(far);
        assert_eq!(
            write(&near, [&b"x"[..]]).unwrap_err().kind(),
            io::ErrorKind::BrokenPipe
        );
        assert_eq!(
            write(&near, []).unwrap(),
            Write {
                offered: 0,
                accepted: 0
            }
        );
    }
}
