//! Who may connect at all: decided when a connection is accepted, before a byte of it is read.
//!
//! Nobody can be told why at that point, so a connection that is refused is closed: that costs one accept, which is all
//! that a flood shall cost. The counts are shared by all cores, because the kernel spreads the connections of one
//! address over them. They are behind a lock that is taken per accept and close, never per message, and only when there
//! is a limit to keep.
//!
//! An IPv6 address stands for its /64, of which whoever has one address has all.

use super::transport::Door;
use crate::config::limits::{Limits, NO_LIMIT};
use crate::shard::ban::{BanRule, Bans};
use crate::shard::limited::{Limit, Refusals};
use crate::shard::rate::advance;
use hashbrown::HashMap;
use siphasher::sip::SipHasher13;
use std::hash::{Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Addresses known below which those that have nothing any more are not looked for.
const ADDRESSES_KEPT: usize = 1_024;
/// The bits of an IPv6 address that count.
const V6_PREFIX: u128 = !(u64::MAX as u128);

/// The counts of all connections of the process.
#[derive(Debug)]
pub struct Admission {
    connections: AtomicU32,
    listeners: Vec<AtomicU32>,
    addresses: Mutex<Addresses>,
    /// Whether there has been a ban.
    has_bans: AtomicBool,
    hash_seed: u64,
}

#[derive(Debug, Default)]
struct Addresses {
    known: HashMap<IpAddr, Address, foldhash::fast::RandomState>,
    /// When to look for those that have nothing any more.
    purge_at: usize,
    bans: Bans,
    refusals: Refusals,
}

#[derive(Clone, Copy, Debug, Default)]
struct Address {
    connections: u32,
    clock_ns: u64,
}

/// A newcomer that asks to be let in.
#[derive(Clone, Copy, Debug)]
pub struct Newcomer {
    /// The number of its listener.
    pub listener: usize,
    /// Where it comes from; none for a unix socket, or when a proxy will say it.
    pub address: Option<IpAddr>,
    /// The time, in monotonic milliseconds.
    pub now_ms: u64,
}

/// A place that a connection has taken; it is free again when this is dropped.
#[derive(Debug)]
pub struct Permit {
    admission: Arc<Admission>,
    listener: u16,
    address: Option<IpAddr>,
}

impl Admission {
    /// For so many listeners, with nobody in. The seed is unknown to clients.
    pub fn new(listeners: usize, hash_seed: u64) -> Self {
        Self {
            connections: AtomicU32::new(0),
            listeners: (0..listeners).map(|_| AtomicU32::new(0)).collect(),
            addresses: Mutex::default(),
            has_bans: AtomicBool::new(false),
            hash_seed,
        }
    }

    /// Whether it matters from where a newcomer comes.
    pub fn wants_address(&self, limits: &Limits, door: &Door) -> bool {
        counts(limits, door)
            || limits.connect_rate_per_address_max != NO_LIMIT
            || self.has_bans.load(Ordering::Relaxed)
    }

    /// Lets a newcomer in; with a permit to keep when somebody counts.
    ///
    /// Errors: the limit that stands against it.
    pub fn admit(
        self: &Arc<Self>,
        limits: &Limits,
        door: &Door,
        newcomer: Newcomer,
    ) -> Result<Option<Box<Permit>>, Limit> {
        if !counts(limits, door) {
            return match newcomer.address {
                Some(address) => self.admit_address(limits, address, newcomer.now_ms, 0),
                None => Ok(()),
            }
            .map(|()| None);
        }
        // From here on dropping it undoes what was counted.
        let mut permit = Box::new(Permit {
            admission: Arc::clone(self),
            listener: u16::try_from(newcomer.listener).expect("a process has few listeners"),
            address: None,
        });
        let before = self.connections.fetch_add(1, Ordering::Relaxed);
        let at_listener = &self.listeners[newcomer.listener];
        let before_at_listener = at_listener.fetch_add(1, Ordering::Relaxed);
        if before >= limits.connections_max {
            return Err(Limit::Connections);
        }
        if before_at_listener >= door.spec().connections_max {
            return Err(Limit::ListenerConnections);
        }
        if let Some(address) = newcomer.address {
            permit.take_address(limits, address, newcomer.now_ms)?;
        }
        Ok(Some(permit))
    }

    /// Whether an address may come in that a proxy has named after the connection was accepted.
    ///
    /// Errors: the limit that stands against it.
    pub fn admit_named(
        &self,
        permit: Option<&mut Permit>,
        limits: &Limits,
        address: IpAddr,
        now_ms: u64,
    ) -> Result<(), Limit> {
        match permit {
            Some(permit) => permit.take_address(limits, address, now_ms),
            None => self.admit_address(limits, address, now_ms, 0),
        }
    }

    fn admit_address(
        &self,
        limits: &Limits,
        address: IpAddr,
        now_ms: u64,
        adds: u32,
    ) -> Result<(), Limit> {
        let rate = limits.connect_rate_per_address_max;
        let has_bans = self.has_bans.load(Ordering::Relaxed);
        if adds == 0 && rate == NO_LIMIT && !has_bans {
            return Ok(());
        }
        let mut addresses = self.addresses();
        if has_bans && addresses.bans.is_banned(self.hash(address), now_ms) {
            return Err(Limit::AddressBan);
        }
        if adds == 0 && rate == NO_LIMIT {
            return Ok(());
        }
        let now_ns = now_ms * 1_000_000;
        addresses.purge(now_ns);
        let known = addresses.known.entry(whole(address)).or_default();
        if known.connections + adds > limits.connections_per_address_max {
            return Err(Limit::AddressConnections);
        }
        let mut clock_ns = known.clock_ns;
        if advance(&mut clock_ns, now_ns, 1, rate) > 0 {
            return Err(Limit::AddressConnectRate);
        }
        known.clock_ns = clock_ns;
        known.connections += adds;
        Ok(())
    }

    /// An address failed to authenticate, and returns whether it is banned for it now.
    pub fn auth_failed(&self, limits: &Limits, address: IpAddr, now_ms: u64) -> bool {
        let rule = BanRule::new(limits.ban_auth_failures_max, limits);
        let hash = self.hash(address);
        let is_banned = self.addresses().bans.count(hash, rule, now_ms);
        if is_banned {
            self.has_bans.store(true, Ordering::Relaxed);
        }
        is_banned
    }

    /// Counts a refusal. When it is time to tell of it: how many were not told before it.
    pub fn refused(&self, limit: Limit, now_ms: u64) -> Option<u64> {
        self.addresses().refusals.count(limit, now_ms)
    }

    /// Refusals since the start, in the order of [`Limit::ALL`].
    pub fn refusals(&self) -> [u64; Limit::ALL.len()] {
        *self.addresses().refusals.counts()
    }

    fn addresses(&self) -> MutexGuard<'_, Addresses> {
        // Counts are right whatever a thread that panicked did with them.
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn hash(&self, address: IpAddr) -> u64 {
        let mut hasher = SipHasher13::new_with_keys(self.hash_seed, 0);
        whole(address).hash(&mut hasher);
        hasher.finish()
    }
}

impl Addresses {
    /// Forgets addresses that have nothing any more, when there are many.
    fn purge(&mut self, now_ns: u64) {
        if self.known.len() >= self.purge_at.max(ADDRESSES_KEPT) {
            self.known
                .retain(|_, address| address.connections > 0 || address.clock_ns > now_ns);
            self.purge_at = self.known.len() * 2;
        }
    }
}

impl Permit {
    fn take_address(&mut self, limits: &Limits, address: IpAddr, now_ms: u64) -> Result<(), Limit> {
        self.admission.admit_address(limits, address, now_ms, 1)?;
        self.address = Some(address);
        Ok(())
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.admission.connections.fetch_sub(1, Ordering::Relaxed);
        self.admission.listeners[usize::from(self.listener)].fetch_sub(1, Ordering::Relaxed);
        if let Some(address) = self.address
            && let Some(known) = self.admission.addresses().known.get_mut(&whole(address))
        {
            known.connections -= 1;
        }
    }
}

/// Whether there is a limit on the number of connections.
fn counts(limits: &Limits, door: &Door) -> bool {
    limits.connections_max != NO_LIMIT
        || door.spec().connections_max != NO_LIMIT
        || limits.connections_per_address_max != NO_LIMIT
}

/// The network that an address stands for.
fn whole(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & V6_PREFIX).into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::listener::ListenerSpec;
    use std::net::Ipv4Addr;

    fn door(connections_max: u32) -> Door {
        let mut spec = ListenerSpec::tcp("tcp", (Ipv4Addr::LOCALHOST, 0).into());
        spec.connections_max = connections_max;
        Door::open(spec).unwrap()
    }

    fn from(address: &str, now_ms: u64) -> Newcomer {
        Newcomer {
            listener: 0,
            address: Some(address.parse().unwrap()),
            now_ms,
        }
    }

    #[test]
    fn places_are_taken_and_given_back() {
        let admission = Arc::new(Admission::new(2, 1));
        let limits = Limits {
            connections_max: 4,
            connections_per_address_max: 2,
            ..Limits::default()
        };
        let door = door(3);
        let admit = |newcomer| admission.admit(&limits, &door, newcomer);
        let first = admit(from("10.0.0.1", 0)).unwrap();
        let _second = admit(from("::ffff:10.0.0.1", 0)).unwrap();
        assert_eq!(
            admit(from("10.0.0.1", 0)).unwrap_err(),
            Limit::AddressConnections
        );
        let _third = admit(from("10.0.0.2", 0)).unwrap();
        assert_eq!(
            admit(from("10.0.0.3", 0)).unwrap_err(),
            Limit::ListenerConnections
        );
        let elsewhere = |listener| Newcomer {
            listener,
            ..from("10.0.0.3", 0)
        };
        let _fourth = admit(elsewhere(1)).unwrap();
        assert_eq!(admit(elsewhere(1)).unwrap_err(), Limit::Connections);
        drop(first);
        assert!(admit(from("10.0.0.1", 0)).is_ok_and(|permit| permit.is_some()));
    }

    #[test]
    fn without_limits_nothing_is_kept() {
        let admission = Arc::new(Admission::new(1, 1));
        let admitted = admission.admit(&Limits::default(), &door(NO_LIMIT), from("10.0.0.1", 0));
        assert!(admitted.unwrap().is_none());
        assert!(admission.addresses().known.is_empty());
    }

    #[test]
    fn an_address_has_its_own_rate_and_a_network_of_version_6_is_one() {
        let admission = Arc::new(Admission::new(1, 1));
        let limits = Limits {
            connect_rate_per_address_max: 2,
            ..Limits::default()
        };
        let door = door(NO_LIMIT);
        let admit = |address, now_ms| admission.admit(&limits, &door, from(address, now_ms));
        for address in ["2001:db8::1", "2001:db8::2"] {
            assert!(admit(address, 1_000).is_ok());
        }
        assert_eq!(
            admit("2001:db8::3", 1_000).unwrap_err(),
            Limit::AddressConnectRate
        );
        assert!(admit("2001:db8:0:1::1", 1_000).is_ok());
        assert!(admit("2001:db8::3", 1_500).is_ok());
    }

    #[test]
    fn failures_ban_an_address_for_a_while() {
        let admission = Arc::new(Admission::new(1, 1));
        let limits = Limits {
            ban_auth_failures_max: 2,
            ban_time_s: 10,
            ..Limits::default()
        };
        let door = door(NO_LIMIT);
        let address = "10.0.0.1".parse().unwrap();
        let failures = (0..3).map(|_| admission.auth_failed(&limits, address, 1_000));
        assert_eq!(failures.collect::<Vec<_>>(), [false, false, true]);
        let admit = |address, now_ms| admission.admit(&limits, &door, from(address, now_ms));
        assert_eq!(admit("10.0.0.1", 10_999).unwrap_err(), Limit::AddressBan);
        assert!(admit("10.0.0.2", 10_999).is_ok());
        assert!(admit("10.0.0.1", 11_000).is_ok());
    }

    #[test]
    fn addresses_that_have_left_are_forgotten() {
        let admission = Arc::new(Admission::new(1, 1));
        let limits = Limits {
            connect_rate_per_address_max: 1_000,
            ..Limits::default()
        };
        let door = door(NO_LIMIT);
        for n in 0..100_000_u32 {
            let newcomer = Newcomer {
                listener: 0,
                address: Some(Ipv4Addr::from_bits(n).into()),
                now_ms: u64::from(n),
            };
            assert!(admission.admit(&limits, &door, newcomer).is_ok());
        }
        assert!(admission.addresses().known.len() < 3 * ADDRESSES_KEPT);
    }
}
