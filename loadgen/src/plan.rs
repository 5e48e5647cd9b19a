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
    /// Whose messages it must get.
    pub hears: Hears,
    /// Whether it stops reading while the run is measured.
    pub slow: bool,
    /// Its number and Topic Name when it publishes.
    pub publishes: Option<(u32, String)>,
    /// The core that runs it.
    pub core: usize,
}

/// Whose messages a client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hears {
    /// Nobody's.
    Nothing,
    /// All of these publishers.
    Own(Range<u32>),
    /// Those of these publishers that its group's other members on its core do not get.
    Group(Range<u32>),
    /// Publishers of other processes.
    Strangers,
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
            hears: Hears::Own(number..number + 1),
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
            hears: Hears::Own(0..1),
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
            hears: Hears::Own(0..senders),
            ..names.client("s", 0, 0)
        };
        let publishers = (0..senders).map(|number| names.publisher(number, number as usize));
        Self {
            clients: [subscriber].into_iter().chain(publishers).collect(),
            publisher_count: senders,
        }
    }

    /// `senders` publishers to `members` subscribers of which each message goes to one. Each core has a group
    /// and publishers of its own, because only one core can tell whether a message came twice.
    pub fn shared(names: &Names, senders: u32, members: u32) -> Self {
        let cores = names.cores as u32;
        // A core's publishers are numbered one after the other.
        let share = |count: u32, core: u32| count / cores + u32::from(core < count % cores);
        let mut plan = Self {
            clients: Vec::new(),
            publisher_count: senders,
        };
        let mut publishers = Vec::new();
        let (mut first, mut member) = (0, 0);
        for core in 0..cores {
            let end = first + share(senders, core);
            for _ in 0..share(members, core) {
                plan.clients.push(ClientPlan {
                    filter: Some(format!("$share/{0}-{core}/{0}/{core}/+", names.prefix)),
                    hears: Hears::Group(first..end),
                    ..names.client("s", member, core as usize)
                });
                member += 1;
            }
            publishers.extend((first..end).map(|number| ClientPlan {
                publishes: Some((number, format!("{}/{core}/{number}", names.prefix))),
                ..names.publisher(number, core as usize)
            }));
            first = end;
        }
        plan.clients.extend(publishers);
        plan
    }

    /// [`Plan::fanout`] where the first `slow` subscribers stop reading for a time.
    pub fn slow(names: &Names, receivers: u32, slow: u32) -> Self {
        let mut plan = Self::fanout(names, receivers);
        plan.clients
            .iter_mut()
            .take(slow as usize)
            .for_each(|client| client.slow = true);
        plan
    }

    /// `count` publishers without subscribers; `%i` in the topic is the publisher's number, `%c` its Client
    /// Identifier.
    pub fn publish(names: &Names, count: u32, topic: &str) -> Self {
        let clients = (0..count).map(|number| {
            let client = names.client("p", number, number as usize);
            let topic = names.fill(topic, number, &client.client_id);
            ClientPlan {
                publishes: Some((number, topic)),
                ..client
            }
        });
        Self {
            clients: clients.collect(),
            publisher_count: count,
        }
    }

    /// `count` subscribers to what other processes publish; the filter is filled in as the topic is in
    /// [`Plan::publish`].
    pub fn subscribe(names: &Names, count: u32, filter: &str) -> Self {
        let clients = (0..count).map(|number| {
            let client = names.client("s", number, number as usize);
            let filter = names.fill(filter, number, &client.client_id);
            ClientPlan {
                filter: Some(filter),
                hears: Hears::Strangers,
                ..client
            }
        });
        Self {
            clients: clients.collect(),
            publisher_count: 0,
        }
    }

    /// For each publisher the number of subscribers that must get each of its messages on each core.
    pub fn receivers(&self, cores: usize) -> Vec<Vec<u32>> {
        let mut receivers = vec![vec![0; cores]; self.publisher_count as usize];
        for client in &self.clients {
            match &client.hears {
                Hears::Own(numbers) => {
                    for number in numbers.clone() {
                        receivers[number as usize][client.core] += 1;
                    }
                }
                Hears::Group(numbers) => {
                    for number in numbers.clone() {
                        receivers[number as usize][client.core] = 1;
                    }
                }
                Hears::Nothing | Hears::Strangers => {}
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
            hears: Hears::Nothing,
            slow: false,
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

    fn fill(&self, template: &str, number: u32, client_id: &str) -> String {
        let shown = u64::from(self.start_number) + u64::from(number);
        template
            .replace("%i", &shown.to_string())
            .replace("%c", client_id)
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
            assert_eq!(subscriber.hears, Hears::Own(number..number + 1));
        }
    }

    #[test]
    fn a_group_hears_the_publishers_of_its_core() {
        for (senders, members) in [(16, 8), (5, 4), (3, 3)] {
            let plan = Plan::shared(&names(3), senders, members);
            let receivers = plan.receivers(3);
            for client in &plan.clients {
                if let Some((number, topic)) = &client.publishes {
                    assert_eq!(receivers[*number as usize][client.core], 1);
                    assert_eq!(receivers[*number as usize].iter().sum::<u32>(), 1);
                    assert!(topic.starts_with(&format!("t/{}/", client.core)));
                }
            }
            let subscribers = plan.clients.iter().filter(|client| client.filter.is_some());
            assert_eq!(subscribers.count(), members as usize);
            assert_eq!(plan.clients.len(), (senders + members) as usize);
        }
    }

    #[test]
    fn topics_are_filled_in() {
        let names = Names {
            start_number: 40,
            ..names(1)
        };
        let plan = Plan::publish(&names, 3, "a/%i/%c");
        let topics: Vec<_> = plan
            .clients
            .iter()
            .map(|client| client.publishes.clone())
            .collect();
        assert_eq!(topics[2], Some((2, "a/42/t-p42".to_string())));
        let plan = Plan::subscribe(&names, 1, "a/%i/+");
        assert_eq!(plan.clients[0].filter.as_deref(), Some("a/40/+"));
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
