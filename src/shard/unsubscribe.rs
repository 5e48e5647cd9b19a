//! UNSUBSCRIBE (MQTT 5 §3.10), and the way every subscription ends.

use super::Shard;
use super::commit::Wait;
use super::connection::Handled;
use super::input::ConnKey;
use super::outbox::Outbox;
use super::record::{Record, StoredSession};
use crate::protocol::ReasonCode;
use crate::protocol::unsuback::put_unsuback;
use crate::protocol::unsubscribe::Unsubscribe;
use crate::session::{SessionKey, SubscriptionRef};
use crate::topic::filter::TopicFilter;
use crate::topic::interest::interest_key;

impl Shard {
    pub(super) fn unsubscribe(
        &mut self,
        key: ConnKey,
        body: &[u8],
        outbox: &mut Outbox,
    ) -> Handled {
        let (version, session) = {
            let conn = self.open(key);
            (conn.version, conn.session)
        };
        let unsubscribe = Unsubscribe::decode(version, body)?;
        self.catch_up(session, outbox);
        self.check_answer_fits(key, unsubscribe.filters().count())?;
        let mut codes = Vec::new();
        for text in unsubscribe.filters() {
            codes.push(match TopicFilter::parse(text) {
                Err(_) => ReasonCode::TopicFilterInvalid as u8,
                Ok(filter) => match self.unsubscribe_one(session, &filter, outbox) {
                    true => {
                        self.keep_unsubscribed(session, text, outbox);
                        ReasonCode::Success as u8
                    }
                    false => ReasonCode::NoSubscriptionExisted as u8,
                },
            });
        }
        let mut packet = Vec::new();
        put_unsuback(&mut packet, version, unsubscribe.packet_id, &codes);
        // Also what did not exist may have ended by a record that is not durable yet.
        let record = self.keeper.emitted;
        let is_stored = self.sessions[session.0 as usize].stored != 0;
        if is_stored && record > self.keeper.committed {
            let conn = key;
            self.keeper.wait(record, Wait::Packet { conn, packet });
        } else {
            self.control(key, outbox, |out| out.extend_from_slice(&packet));
        }
        Ok(())
    }

    fn keep_unsubscribed(&mut self, session: SessionKey, filter: &str, outbox: &mut Outbox) {
        let stored = self.sessions[session.0 as usize].stored;
        if stored != 0 {
            let record = Record::Unsubscribed {
                session: StoredSession(stored),
                filter: filter.into(),
            };
            self.keep(record, outbox);
        }
    }

    fn unsubscribe_one(
        &mut self,
        session_key: SessionKey,
        filter: &TopicFilter<'_>,
        outbox: &mut Outbox,
    ) -> bool {
        let Some(gone) = self.find_subscription(session_key, filter) else {
            return false;
        };
        if !self.end_subscription(session_key, gone, outbox) {
            return false;
        }
        let session = &mut self.sessions[session_key.0 as usize];
        session.subscriptions.remove(gone);
        if let (SubscriptionRef::Filter(id), Some(state)) = (gone, &mut session.state) {
            // What is retained was owed to the subscription.
            state.replays.remove(&id);
        }
        true
    }

    /// The subscription that a session has for a filter.
    pub(super) fn find_subscription(
        &self,
        session_key: SessionKey,
        filter: &TopicFilter<'_>,
    ) -> Option<SubscriptionRef> {
        if filter.share_name().is_some() {
            let group = self.groups.find(filter)?;
            self.groups
                .member(group, session_key.0)
                .map(|_| SubscriptionRef::Group(group))
        } else {
            let id = self.index.find(filter.filter())?;
            self.index
                .get(id, session_key.0)
                .map(|_| SubscriptionRef::Filter(id))
        }
    }

    /// Takes a subscription out of the topic room and, when it was the last of its kind here, tells the other shards; false
    /// when the session did not have it.
    pub(super) fn end_subscription(
        &mut self,
        session_key: SessionKey,
        gone: SubscriptionRef,
        outbox: &mut Outbox,
    ) -> bool {
        match gone {
            SubscriptionRef::Group(group) => {
                // The group may vanish with its last member.
                let mut text = String::new();
                self.groups.text(group, &mut text);
                let Some(left) = self.groups.leave_group(group, session_key.0) else {
                    return false;
                };
                self.announce_counts(group, text, left.counts, outbox);
                true
            }
            SubscriptionRef::Filter(id) => {
                let mut text = String::new();
                self.index.filter_text(id, &mut text);
                let Some(unsubscribed) = self.index.unsubscribe_id(id, session_key.0) else {
                    return false;
                };
                if self.sessions[session_key.0 as usize].stored != 0 {
                    self.remove_stored_interest(&text, outbox);
                }
                if unsubscribed.last && self.shard_count > 1 {
                    let interest = interest_key(self.hash_seed, &text);
                    if self.local_interest.remove(interest) {
                        self.announce_interest(interest, false, false, outbox);
                    }
                }
                true
            }
        }
    }
}
