//! Who does what in a run: the clients, their topics, and the core each belongs to.

use crate::payload::PUBLISHERS_MAX;
use std::ops::Range;

/// One client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPlan {
    /// Its Client Identifier.
    pub client_id: String,
    /// The Topic Filter it subscribes to, if any.
    pub filter: Option<String>,
    /// The publishers whose messages it must get.
    pub hears: Range<u32>,
    /// Its number and Topic Name when it publishes.
    pub publishes: Option<(u32, String)>,
    /// The core that runs it.
    pub core: usize,
}

/// All clients of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The clients, in the order in which they connect: subscribers come before their publishers.
    pub clients: Vec<ClientPlan>,
    /// How many of them publish; they are numbered from 0.
    pub publisher_count: u32,
}

/// What a plan is built from.
#[derive(Clone, Debug)]
pub struct Names {
    /// What Client Identifiers and topics begin with; it should differ between runs.
    pub prefix: String,
    /// The number of the first client in its Client Identifier.
    pub start_number: u32,
    /// Cores to spread the clients over.
    pub cores: usize,
}

impl Plan {
    /// `count` clients that do nothing but stay; each subscribes to a topic of its own if asked to.
    pub fn conn(names: &Names, count: u32, subscribe: bool) -> Self {
        let clients = (0..count).map(|number| ClientPlan {
            filter: subscribe.then(|| format!("{}/{number}", names.prefix)),
            ..names.client("c", number, number as usize)
        });
        Self {
            clients: clients.collect(),
            publisher_count: 0,
        }
    }

    /// `pairs` publishers with a subscriber each; a pair is on one core.
    pub fn pubsub(names: &Names, pairs: u32) -> Self {
        let subscribers = (0..pairs).map(|number| ClientPlan {
            filter: Some(names.topic(number)),
            hears: number..number + 1,
            ..names.client("s", number, number as usize)
        });
        let publishers = (0..pairs).map(|number| names.publisher(number, number as usize));
        Self {
            clients: subscribers.chain(publishers).collect(),
            publisher_count: pairs,
        }
    }

    /// One publisher to `receivers` subscribers.
    pub fn fanout(names: &Names, receivers: u32) -> Self {
        let subscribers = (0..receivers).map(|number| ClientPlan {
            filter: Some(names.topic(0)),
            hears: 0..1,
            ..names.client("s", number, number as usize)
        });
        let publisher = names.publisher(0, 0);
        Self {
            clients: subscribers.chain([publisher]).collect(),
            publisher_count: 1,
        }
    }

    /// `senders` publishers, each with its own topic, to one subscriber.
    pub fn fanin(names: &Names, senders: u32) -> Self {
        let subscriber = ClientPlan {
            filter: Some(format!("{}/+", names.prefix)),
            hears: 0..senders,
            ..names.client("s", 0, 0)
        };
        let publishers = (0..senders).map(|number| names.publisher(number, number as usize));
        Self {
            clients: [subscriber].into_iter().chain(publishers).collect(),
            publisher_count: senders,
        }
    }

    /// For each publisher the number of subscribers that must get each of its messages on each core.
    pub fn receivers(&self, cores: usize) -> Vec<Vec<u32>> {
        let mut receivers = vec![vec![0; cores]; self.publisher_count as usize];
        for client in &self.clients {
            for publisher in client.hears.clone() {
                receivers[publisher as usize][client.core] += 1;
            }
        }
        receivers
    }
}

impl Names {
    fn client(&self, role: &str, number: u32, place: usize) -> ClientPlan {
        let shown = u64::from(self.start_number) + u64::from(number);
        ClientPlan {
            client_id: format!("{}-{role}{shown}", self.prefix),
            filter: None,
            hears: 0..0,
            publishes: None,
            core: place % self.cores,
        }
    }

    fn publisher(&self, number: u32, place: usize) -> ClientPlan {
        assert!(number < PUBLISHERS_MAX);
        ClientPlan {
            publishes: Some((number, self.topic(number))),
            ..self.client("p", number, place)
        }
    }

    fn topic(&self, number: u32) -> String {
        format!("{}/{number}", self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(cores: usize) -> Names {
        Names {
            prefix: "t".into(),
            start_number: 0,
            cores,
        }
    }

    #[test]
    fn each_message_has_the_receivers_its_shape_promises() {
        let total = |plan: &Plan| -> Vec<u32> {
            plan.receivers(3)
                .iter()
                .map(|cores| cores.iter().sum())
                .collect()
        };
        assert_eq!(total(&Plan::pubsub(&names(3), 5)), [1; 5]);
        assert_eq!(total(&Plan::fanout(&names(3), 100)), [100]);
        assert_eq!(total(&Plan::fanin(&names(3), 7)), [1; 7]);
        assert!(total(&Plan::conn(&names(3), 7, true)).is_empty());
    }

    #[test]
    fn a_pair_stays_on_one_core() {
        let plan = Plan::pubsub(&names(3), 7);
        for (subscriber, publisher) in plan.clients[..7].iter().zip(&plan.clients[7..]) {
            assert_eq!(subscriber.core, publisher.core);
            let (number, topic) = publisher.publishes.clone().unwrap();
            assert_eq!(subscriber.filter.as_deref(), Some(&*topic));
            assert_eq!(subscriber.hears, number..number + 1);
        }
    }

    #[test]
    fn client_identifiers_differ() {
        for plan in [
            Plan::pubsub(&names(2), 9),
            Plan::fanout(&names(2), 9),
            Plan::fanin(&names(2), 9),
        ] {
            let mut ids: Vec<_> = plan
                .clients
                .iter()
                .map(|client| &client.client_id)
                .collect();
            ids.sort();
            ids.dedup();
            assert_eq!(ids.len(), plan.clients.len());
        }
    }
}
