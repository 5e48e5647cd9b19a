//! A message for very many sessions of this shard goes to them in pieces, between which the shard takes other inputs.
//!
//! Nobody can tell: whatever else is about to happen to a session that is still to have it (another message, what waits for it, the end of a
//! subscription or of the session) happens behind it ([`Shard::catch_up`]). So the order of messages is what it would be without, for every
//! publisher and every subscriber, and a message to somebody else waits for nothing.
//!
//! A session gets all that is under way to it at once, so that a stream of such messages leaves in large writes. Where the store has to take
//! the message for some of them, its acknowledgement waits until all have it, as it waits for the answers of other shards.

use super::Shard;
use super::deliver::{Images, Match, MoreIds, REPLAY_VISITS};
use super::message::Message;
use super::outbox::Outbox;
use super::publication::{Numbering, Publication};
use super::storing::AtHand;
use crate::protocol::QoS;
use crate::session::{Session, SessionKey};
use slab::Slab;
use std::collections::VecDeque;
use std::rc::Rc;

/// Sessions that have a message at once: less than a millisecond of work. With more, all of them wait for their piece, and for what is behind
/// the message by then. Where assertions are checked a few are enough, so that tests go that way.
pub(super) const AT_ONCE_MAX: usize = if cfg!(debug_assertions) { 2 } else { 1_024 };
/// Sessions in a piece.
const PIECE: usize = if cfg!(debug_assertions) { 1 } else { 128 };
/// Messages under way at a time. With more, all that are left get the oldest.
const MESSAGES_MAX: usize = if cfg!(debug_assertions) { 3 } else { 64 };
/// Memory for who is still to have what; the same holds with more.
const BYTES_MAX: usize = 64 << 20;

/// How much of the retained index may still be looked at in this millisecond. One bound for all: a client's packets each ask for as much
/// again, and thousands of them come at once.
#[derive(Debug, Default)]
pub(super) struct ReplayVisits {
    /// The millisecond, and one.
    until_ms: u64,
    pub(super) left: usize,
}

impl ReplayVisits {
    pub(super) fn at(&mut self, now_ms: u64) -> usize {
        if now_ms >= self.until_ms {
            self.until_ms = now_ms + 1;
            self.left = REPLAY_VISITS;
        }
        self.left
    }
}

/// A message and those who are still to have it.
#[derive(Debug)]
pub(super) struct FanOut {
    message: Rc<Message>,
    /// Taken from the end. Who has it out of turn has left a `None`.
    rest: Vec<Option<Match>>,
    /// By session: where it stands in `rest`, and one; 0 for those who have it or never get it.
    places: Vec<u32>,
    more_ids: MoreIds,
    images: Box<Images>,
    /// The Message Expiry Interval in `images`.
    message_expiry_s: Option<u32>,
    /// Whose number it is stored under; none if nobody has it stored.
    stored_as: Option<Numbering>,
}

impl FanOut {
    /// Packets in pages that it holds.
    pub(super) fn held(&self) -> usize {
        self.images.held()
    }

    /// Asserts that everybody who is still to have it is there, and can be found. Cost: linear in the sessions.
    pub(super) fn check_invariants(&self, sessions: &Slab<Session>) {
        for (at, found) in (1..).zip(&self.rest) {
            if let Some(found) = found {
                assert!(sessions.contains(found.session.0 as usize));
                assert_eq!(self.places[found.session.0 as usize], at);
            }
        }
        let waiting = self.rest.iter().flatten().count();
        let places = self.places.iter().filter(|place| **place != 0);
        assert_eq!(places.count(), waiting);
    }

    fn bytes(&self) -> usize {
        self.rest.capacity() * size_of::<Match>() + self.places.len() * size_of::<u32>()
    }

    /// Takes a session out.
    fn take(&mut self, session: SessionKey) -> Option<Match> {
        let place = self.places.get_mut(session.0 as usize)?;
        let at = (*place as usize).checked_sub(1)?;
        *place = 0;
        self.rest[at].take()
    }

    /// Takes out whoever is next.
    fn next(&mut self) -> Option<Match> {
        let found = std::iter::from_fn(|| self.rest.pop()).flatten().next()?;
        self.places[found.session.0 as usize] = 0;
        Some(found)
    }
}

impl Shard {
    /// Whether a message is under way to sessions of this shard, or one of them looks through what is retained: with
    /// [`Input::FanOut`](super::input::Input::FanOut) it goes on.
    pub fn is_fanning_out(&self) -> bool {
        !self.fan_outs.is_empty() || !self.pump_later.is_empty()
    }

    /// Puts a publication under way to `matches`.
    #[cold]
    pub(super) fn set_aside(
        &mut self,
        matches: Vec<Match>,
        publication: &mut Publication<'_>,
        more_ids: &MoreIds,
        outbox: &mut Outbox,
    ) {
        while self.fan_outs.len() >= MESSAGES_MAX
            || self.fan_outs.iter().map(FanOut::bytes).sum::<usize>() > BYTES_MAX
        {
            self.fan_out(usize::MAX, outbox);
        }
        let sessions = &self.sessions;
        let is_stored = |found: &Match| {
            found.qos != QoS::AtMostOnce && sessions[found.session.0 as usize].stored != 0
        };
        let mut stored_as = None;
        if self.keeper.is_on()
            && publication.qos != QoS::AtMostOnce
            && matches.iter().any(is_stored)
        {
            self.keeper
                .own_number(self.id, self.now.wall_ms, publication);
            self.keeper.at_hand.awaited += 1;
            stored_as = Some(publication.numbering);
        }
        let mut places = vec![0; self.sessions.capacity()];
        for (at, found) in (1..).zip(&matches) {
            places[found.session.0 as usize] = at;
        }
        let mut images = Box::<Images>::default();
        images.is_wide = true;
        self.fan_outs.push_back(FanOut {
            message: publication.local(),
            rest: matches.into_iter().map(Some).collect(),
            places,
            more_ids: more_ids.clone(),
            images,
            message_expiry_s: None,
            stored_as,
        });
    }

    /// [`Input::FanOut`](super::input::Input::FanOut): so many more sessions have what is under way to them, and as many what they may have
    /// since a message for very many was stored, or are owed of what is retained.
    #[cold]
    pub(super) fn fan_out_piece(&mut self, outbox: &mut Outbox) {
        // Who has more to look through than may be is behind the others then.
        let mut visits = REPLAY_VISITS;
        for _ in 0..PIECE.min(self.pump_later.len()) {
            if visits > 0
                && let Some(session) = self.pump_later.pop_front()
            {
                let found = self.sessions.get_mut(session.0 as usize);
                if let Some(state) = found.and_then(|session| session.state.as_mut()) {
                    state.is_replayed_later = false;
                }
                self.pump_within(session, &mut visits, outbox);
            }
        }
        if self.pump_later.is_empty() {
            // A burst must not keep its memory.
            self.pump_later = VecDeque::new();
        }
        self.fan_out(PIECE, outbox);
    }

    /// Gives so many more sessions what is under way to them, first those that the oldest message is under way to.
    fn fan_out(&mut self, count: usize, outbox: &mut Outbox) {
        // Who gets a message has no other under way that is older.
        let mut fan_outs = std::mem::take(&mut self.fan_outs);
        let Some(oldest) = fan_outs.front_mut() else {
            return;
        };
        let mut piece = std::mem::take(&mut self.matches);
        let mut younger = std::mem::take(&mut self.more_matches);
        piece.clear();
        piece.extend(std::iter::from_fn(|| oldest.next()).take(count));
        self.deliver_piece(oldest, &piece, outbox);
        for fan_out in fan_outs.iter_mut().skip(1) {
            younger.clear();
            younger.extend(piece.iter().filter_map(|found| fan_out.take(found.session)));
            self.deliver_piece(fan_out, &younger, outbox);
        }
        self.matches = piece;
        self.more_matches = younger;
        self.fan_outs = fan_outs;
        let is_over = |fan_out: &mut FanOut| fan_out.rest.is_empty();
        while let Some(mut oldest) = self.fan_outs.pop_front_if(is_over) {
            oldest.images.clear(&mut self.pool.pages);
            match oldest.stored_as {
                None => {}
                Some(Numbering::Own) => self.answered(oldest.message.number(), outbox),
                Some(_) => self.all_have(oldest.message.number()),
            }
        }
    }

    fn deliver_piece(&mut self, fan_out: &mut FanOut, piece: &[Match], outbox: &mut Outbox) {
        let FanOut {
            message,
            more_ids,
            images,
            message_expiry_s,
            stored_as,
            ..
        } = fan_out;
        let mut publication = Publication::from_local(message);
        // Another publication may be at hand.
        let at_hand = std::mem::take(&mut self.keeper.at_hand);
        if let Some(stored_as) = stored_as {
            publication.numbering = *stored_as;
        }
        let remaining_s = publication.remaining_s(self.now.mono_ms);
        let remaining_s = remaining_s.unwrap_or_default();
        if *message_expiry_s != remaining_s {
            images.clear(&mut self.pool.pages);
            *message_expiry_s = remaining_s;
        }
        for found in piece {
            // The rules may have changed since it matched.
            if self.may_have(found.session, message.topic()) {
                self.deliver_match(found, &mut publication, more_ids, Some(images), outbox);
            } else {
                self.counters.deliveries_denied += 1;
            }
        }
        let more = std::mem::replace(&mut self.keeper.at_hand, at_hand);
        if stored_as.is_some() {
            self.more_have(message.number(), more);
        } else {
            assert!(more == AtHand::default());
        }
    }

    /// Gives a session what is under way to it. Cost where nothing is: this branch.
    #[inline]
    pub(super) fn catch_up(&mut self, session: SessionKey, outbox: &mut Outbox) {
        if !self.fan_outs.is_empty() {
            self.catch_up_now(session, outbox);
        }
    }

    #[cold]
    fn catch_up_now(&mut self, session: SessionKey, outbox: &mut Outbox) {
        let mut fan_outs = std::mem::take(&mut self.fan_outs);
        for fan_out in &mut fan_outs {
            if let Some(found) = fan_out.take(session) {
                self.deliver_piece(fan_out, &[found], outbox);
            }
        }
        self.fan_outs = fan_outs;
    }
}
