//! Which shard owns a session: the only place that knows the rule.

use super::input::ShardId;
use siphasher::sip::SipHasher13;
use std::hash::Hasher;

/// The rule that maps a Client Identifier to the shard that owns its session.
///
/// The key is random per installation, so nobody can aim all clients at one core.
#[derive(Clone, Copy, Debug)]
pub struct Placement {
    key: [u8; 16],
    shard_count: u8,
}

impl Placement {
    /// The rule for `shard_count` shards (1 to 64) under the installation's key.
    pub fn new(key: [u8; 16], shard_count: usize) -> Self {
        assert!(shard_count >= 1);
        assert!(shard_count <= ShardId::COUNT_MAX);
        Self {
            key,
            shard_count: shard_count as u8,
        }
    }

    /// The owner of the session of `client_id`.
    pub fn owner(&self, client_id: &str) -> ShardId {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(client_id.as_bytes());
        ShardId((hasher.finish() % u64::from(self.shard_count)) as u8)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_shard_owns_about_its_share() {
        let placement = Placement::new([7; 16], 4);
        let mut owned = [0u32; 4];
        for n in 0..4000 {
            owned[placement.owner(&format!("client-{n}")).index()] += 1;
        }
        for count in owned {
            assert!((900..1100).contains(&count), "{owned:?}");
        }
    }

    #[test]
    fn the_key_decides() {
        let ids: Vec<String> = (0..64).map(|n| format!("client-{n}")).collect();
        let owners = |key| {
            let placement = Placement::new([key; 16], 8);
            ids.iter().map(|id| placement.owner(id)).collect::<Vec<_>>()
        };
        assert_eq!(owners(1), owners(1));
        assert_ne!(owners(1), owners(2));
    }
}
