//! Who does what in a run: the clients, their topics, and the core each belongs to.
//!
//! A run may have a million clients, so what can be told from a client's number (its Client Identifier) is not
//! kept for each.

use crate::payload::PUBLISHERS_MAX;
use std::ops::Range;

/// Digits of the number in the topics of [`Plan::wild`].
const WILD_DIGITS: usize = 6;
/// Filters for each of those numbers.
pub const WILD_FILTERS: u32 = 3;

/// One client.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientPlan {
    /// What it is called after, see [`Names::client_id`].
    pub role: Role,
    /// Its number among those of its role.
    pub number: u32,
    /// Whether it stops reading while the run is measured.
    pub slow: bool,
    /// Whose messages it must get.
    pub hears: Hears,
    /// The Topic Filters it subscribes to.
    pub filters: Box<[String]>,
    /// What it publishes, if anything.
    pub publishes: Option<Box<Publishes>>,
}

/// What a client is called after.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// It does nothing but stay.
    Idle,
    /// It publishes.
    Publisher,
    /// It subscribes.
    Subscriber,
}

/// What a client publishes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publishes {
    /// Its number among all publishers of the run.
    pub number: u32,
    /// The Topic Name of its first message.
    pub topic: String,
    /// How that differs from message to message, if it does.
    pub rotation: Option<Rotation>,
}

/// A number in a Topic Name that goes round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rotation {
    /// Where its digits are, as an offset into the Topic Name.
    pub at: usize,
    /// How many digits it has.
    pub digits: usize,
    /// The least number.
    pub least: u32,
    /// How many numbers there are.
    pub count: u32,
    /// How far from the least the first message's is.
    pub offset: u32,
}

impl Rotation {
    /// The number of message `index`.
    pub fn number(&self, index: u64) -> u32 {
        self.least + ((index + u64::from(self.offset)) % u64::from(self.count)) as u32
    }
}

/// Whose messages a client gets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hears {
    /// Nobody's.
    Nothing,
    /// All of these publishers.
    Own(Range<u32>),
    /// Those of these publishers that its group's other members on its core do not get.
    Group {
        /// Which of the core's groups: each gets each message once.
        group: u32,
        /// The publishers.
        publishers: Range<u32>,
    },
    /// Publishers of other processes.
    Strangers,
}

/// All clients of a run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// By core, in the order in which they connect: subscribers come before their publishers.
    pub cores: Vec<Vec<ClientPlan>>,
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
    /// Whether Client Identifiers are the prefix and the number alone.
    pub short_ids: bool,
    /// What `%u` in a topic stands for.
    pub username: String,
    /// Cores to spread the clients over.
    pub cores: usize,
}

impl Plan {
    /// `count` clients that do nothing but stay; each subscribes to a topic of its own if asked to.
    pub fn conn(names: &Names, count: u32, subscribe: bool) -> Self {
        let mut plan = Self::on(names);
        for number in 0..count {
            let filters = subscribe.then(|| names.topic(number)).into_iter().collect();
            plan.add(
                number as usize,
                ClientPlan {
                    filters,
                    ..client(Role::Idle, number)
                },
            );
        }
        plan
    }

    /// `pairs` publishers with a subscriber each; a pair is on one core.
    pub fn pubsub(names: &Names, pairs: u32) -> Self {
        let mut plan = Self::on(names);
        for number in 0..pairs {
            let hears = Hears::Own(number..number + 1);
            plan.add(
                number as usize,
                subscriber(number, hears, names.topic(number)),
            );
        }
        plan.add_publishers(names, pairs);
        plan
    }

    /// `senders` publishers, each with its own topic, to `receivers` subscribers that all hear all of them: by one
    /// filter for all topics, or by one for each. The first `slow` subscribers stop reading for a time.
    pub fn fanout(
        names: &Names,
        senders: u32,
        receivers: u32,
        slow: u32,
        by_wildcard: bool,
    ) -> Self {
        let filters: Box<[String]> = if by_wildcard {
            [format!("{}/+", names.prefix)].into()
        } else {
            (0..senders).map(|number| names.topic(number)).collect()
        };
        let mut plan = Self::on(names);
        for number in 0..receivers {
            plan.add(
                number as usize,
                ClientPlan {
                    hears: Hears::Own(0..senders),
                    filters: filters.clone(),
                    slow: number < slow,
                    ..client(Role::Subscriber, number)
                },
            );
        }
        plan.add_publishers(names, senders);
        plan
    }

    /// `senders` publishers to `members` subscribers of which each message goes to one. Each core has a group
    /// and publishers of its own, because only one core can tell whether a message came twice.
    pub fn shared(names: &Names, senders: u32, members: u32) -> Self {
        let mut plan = Self::on(names);
        plan.publisher_count = senders;
        let (mut first, mut member) = (0, 0);
        for core in 0..names.cores {
            let end = first + part(senders, core, names.cores);
            for _ in 0..part(members, core, names.cores) {
                let publishers = first..end;
                let hears = Hears::Group {
                    group: 0,
                    publishers,
                };
                // The name of a group has one level.
                let group = names.prefix.replace('/', "-");
                let filter = format!("$share/{group}-{core}/{}/{core}/+", names.prefix);
                plan.add(core, subscriber(member, hears, filter));
                member += 1;
            }
            first = end;
        }
        let mut first = 0;
        for core in 0..names.cores {
            // A core's publishers are numbered one after the other.
            let end = first + part(senders, core, names.cores);
            for number in first..end {
                let topic = format!("{}/{core}/{number}", names.prefix);
                plan.add(core, publisher(number, topic, None));
            }
            first = end;
        }
        plan
    }

    /// `filters` filters with wildcards, three for each number N: `w/N/+/t`, `w/N/x/#` and `+/N/x/+`, spread over
    /// `receivers` subscribers, and `senders` publishers that go through the topics `w/N/x/t`. Each message
    /// matches three filters, of three different subscribers. Each core has numbers of its own.
    ///
    /// Panics: when a core has fewer than three subscribers, or no number.
    pub fn wild(names: &Names, senders: u32, receivers: u32, filters: u32) -> Self {
        let mut plan = Self::on(names);
        plan.publisher_count = senders;
        let prefix = &names.prefix;
        let numbers = filters / WILD_FILTERS;
        let (mut sender, mut receiver, mut first) = (0, 0, 0);
        for core in 0..names.cores {
            let part = |count| part(count, core, names.cores);
            let (publishers, here) = (sender..sender + part(senders), part(receivers));
            let own = first..first + part(numbers);
            assert!(here >= WILD_FILTERS && !own.is_empty());
            for index in 0..here {
                let kind = index % WILD_FILTERS;
                // Clients of a kind take its filters in turn.
                let of_kind = (here - kind).div_ceil(WILD_FILTERS);
                let mine = own
                    .clone()
                    .skip((index / WILD_FILTERS) as usize)
                    .step_by(of_kind as usize);
                let filter = |number| match kind {
                    0 => format!("{prefix}/{number:0WILD_DIGITS$}/+/t"),
                    1 => format!("{prefix}/{number:0WILD_DIGITS$}/x/#"),
                    _ => format!("+/{number:0WILD_DIGITS$}/x/+"),
                };
                plan.add(
                    core,
                    ClientPlan {
                        hears: Hears::Group {
                            group: kind,
                            publishers: publishers.clone(),
                        },
                        filters: mine.map(filter).collect(),
                        ..client(Role::Subscriber, receiver + index)
                    },
                );
            }
            for number in publishers.clone() {
                // Publishers begin at different numbers and go through all of them.
                let place = number - publishers.start;
                let rotation = Rotation {
                    at: prefix.len() + 1,
                    digits: WILD_DIGITS,
                    least: own.start,
                    count: own.len() as u32,
                    offset: place * (own.len() / publishers.len()) as u32,
                };
                let topic = format!("{prefix}/{:0WILD_DIGITS$}/x/t", rotation.number(0));
                plan.add(core, publisher(number, topic, Some(rotation)));
            }
            (sender, receiver, first) = (publishers.end, receiver + here, own.end);
        }
        plan
    }

    /// `count` publishers without subscribers; for the topic see [`Names::fill`].
    pub fn publish(names: &Names, count: u32, topic: &str) -> Self {
        let mut plan = Self::on(names);
        plan.publisher_count = count;
        for number in 0..count {
            let topic = names.fill(topic, Role::Publisher, number);
            plan.add(number as usize, publisher(number, topic, None));
        }
        plan
    }

    /// `count` subscribers to what other processes publish; for the filter see [`Names::fill`].
    pub fn subscribe(names: &Names, count: u32, filter: &str) -> Self {
        let mut plan = Self::on(names);
        for number in 0..count {
            let filter = names.fill(filter, Role::Subscriber, number);
            plan.add(
                number as usize,
                subscriber(number, Hears::Strangers, filter),
            );
        }
        plan
    }

    /// All clients, core by core.
    pub fn clients(&self) -> impl Iterator<Item = &ClientPlan> {
        self.cores.iter().flatten()
    }

    /// For each publisher the number of copies that must come of each of its messages on each core.
    pub fn receivers(&self) -> Vec<Vec<u32>> {
        let mut receivers = vec![vec![0; self.cores.len()]; self.publisher_count as usize];
        for (core, clients) in self.cores.iter().enumerate() {
            for client in clients {
                match &client.hears {
                    Hears::Own(numbers) => {
                        for number in numbers.clone() {
                            receivers[number as usize][core] += 1;
                        }
                    }
                    Hears::Group { group, publishers } => {
                        for number in publishers.clone() {
                            let copies = &mut receivers[number as usize][core];
                            *copies = (*copies).max(group + 1);
                        }
                    }
                    Hears::Nothing | Hears::Strangers => {}
                }
            }
        }
        receivers
    }

    /// Whether MQTT promises that messages of one publisher come in order: not across the members of a group.
    pub fn order_is_promised(&self) -> bool {
        !self
            .clients()
            .any(|one| matches!(one.hears, Hears::Group { .. }))
    }

    fn on(names: &Names) -> Self {
        Self {
            cores: vec![Vec::new(); names.cores],
            publisher_count: 0,
        }
    }

    fn add(&mut self, place: usize, client: ClientPlan) {
        let core = place % self.cores.len();
        self.cores[core].push(client);
    }

    fn add_publishers(&mut self, names: &Names, count: u32) {
        self.publisher_count = count;
        for number in 0..count {
            self.add(
                number as usize,
                publisher(number, names.topic(number), None),
            );
        }
    }
}

impl Names {
    /// The Client Identifier of a client.
    pub fn client_id(&self, role: Role, number: u32) -> String {
        let shown = self.shown(number);
        match role {
            _ if self.short_ids => format!("{}{shown}", self.prefix),
            Role::Idle => format!("{}-c{shown}", self.prefix),
            Role::Publisher => format!("{}-p{shown}", self.prefix),
            Role::Subscriber => format!("{}-s{shown}", self.prefix),
        }
    }

    /// A topic or filter with `%i` (the client's number), `%c` (its Client Identifier) and `%u` (its User
    /// Name) filled in.
    pub fn fill(&self, template: &str, role: Role, number: u32) -> String {
        let values = self.values(role, number);
        let mut filled = String::new();
        let mut rest = template;
        while let Some((before, place)) = rest.split_once('%') {
            let value = values.iter().find(|(name, _)| place.starts_with(*name));
            filled += before;
            filled += value.map_or("%", |(_, value)| value);
            rest = value.map_or(place, |_| &place[1..]);
        }
        filled + rest
    }

    /// How many bytes that would be.
    pub fn filled_bytes(&self, template: &str, role: Role, number: u32) -> usize {
        let values = self.values(role, number);
        let more = values.map(|(name, value)| {
            let places = template.matches(&format!("%{name}")).count();
            (places * value.len(), places * 2)
        });
        more.iter().fold(template.len(), |bytes, (added, taken)| {
            bytes + added - taken
        })
    }

    /// What places in a template stand for.
    fn values(&self, role: Role, number: u32) -> [(char, String); 3] {
        [
            ('i', self.shown(number).to_string()),
            ('c', self.client_id(role, number)),
            ('u', self.username.clone()),
        ]
    }

    fn shown(&self, number: u32) -> u64 {
        u64::from(self.start_number) + u64::from(number)
    }

    fn topic(&self, number: u32) -> String {
        format!("{}/{number}", self.prefix)
    }
}

/// The part of `count` that falls to one of several.
pub fn part(count: u32, index: usize, of: usize) -> u32 {
    let (index, of) = (index as u32, of as u32);
    count / of + u32::from(index < count % of)
}

fn client(role: Role, number: u32) -> ClientPlan {
    ClientPlan {
        role,
        number,
        slow: false,
        hears: Hears::Nothing,
        filters: Box::default(),
        publishes: None,
    }
}

fn subscriber(number: u32, hears: Hears, filter: String) -> ClientPlan {
    ClientPlan {
        hears,
        filters: [filter].into(),
        ..client(Role::Subscriber, number)
    }
}

fn publisher(number: u32, topic: String, rotation: Option<Rotation>) -> ClientPlan {
    assert!(number < PUBLISHERS_MAX);
    ClientPlan {
        publishes: Some(Box::new(Publishes {
            number,
            topic,
            rotation,
        })),
        ..client(Role::Publisher, number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::{BTreeMap, BTreeSet};

    fn names(cores: usize) -> Names {
        Names {
            prefix: "t".into(),
            start_number: 0,
            short_ids: false,
            username: String::new(),
            cores,
        }
    }

    #[test]
    fn each_message_has_the_receivers_its_shape_promises() {
        let total = |plan: &Plan| -> Vec<u32> {
            plan.receivers()
                .iter()
                .map(|cores| cores.iter().sum())
                .collect()
        };
        assert_eq!(total(&Plan::pubsub(&names(3), 5)), [1; 5]);
        assert_eq!(total(&Plan::fanout(&names(3), 1, 100, 0, false)), [100]);
        assert_eq!(total(&Plan::fanout(&names(3), 5, 100, 2, false)), [100; 5]);
        assert_eq!(total(&Plan::fanout(&names(3), 7, 1, 0, true)), [1; 7]);
        assert_eq!(total(&Plan::wild(&names(2), 5, 12, 60)), [3; 5]);
        assert!(total(&Plan::conn(&names(3), 7, true)).is_empty());
    }

    #[test]
    fn a_pair_stays_on_one_core() {
        let plan = Plan::pubsub(&names(3), 7);
        for clients in &plan.cores {
            let (subscribers, publishers) = clients.split_at(clients.len() / 2);
            for (subscriber, publisher) in subscribers.iter().zip(publishers) {
                let publishes = publisher.publishes.as_ref().unwrap();
                assert_eq!(*subscriber.filters, *std::slice::from_ref(&publishes.topic));
                let number = publishes.number;
                assert_eq!(subscriber.hears, Hears::Own(number..number + 1));
            }
        }
    }

    #[test]
    fn a_group_hears_the_publishers_of_its_core() {
        for (senders, members) in [(16, 8), (5, 4), (3, 3)] {
            let plan = Plan::shared(&names(3), senders, members);
            let receivers = plan.receivers();
            for (core, clients) in plan.cores.iter().enumerate() {
                for publishes in clients.iter().filter_map(|one| one.publishes.as_ref()) {
                    let cores = &receivers[publishes.number as usize];
                    assert_eq!((cores[core], cores.iter().sum::<u32>()), (1, 1));
                    assert!(publishes.topic.starts_with(&format!("t/{core}/")));
                }
            }
            let subscribers = plan.clients().filter(|client| !client.filters.is_empty());
            assert_eq!(subscribers.count(), members as usize);
            assert_eq!(plan.clients().count(), (senders + members) as usize);
            assert!(!plan.order_is_promised());
        }
    }

    #[test]
    fn each_wild_topic_matches_three_filters_of_three_clients() {
        for (cores, senders, receivers, filters) in [(1, 4, 7, 60), (2, 3, 50, 300)] {
            let plan = Plan::wild(&names(cores), senders, receivers, filters);
            let mut holders: BTreeMap<&str, (usize, u32)> = BTreeMap::new();
            for (core, client) in plan
                .cores
                .iter()
                .enumerate()
                .flat_map(|(core, clients)| clients.iter().map(move |one| (core, one)))
            {
                let each = client.filters.len() as u32;
                assert!(
                    each == 0 || each.abs_diff(filters / receivers) <= 2,
                    "{each}"
                );
                for filter in &client.filters {
                    assert_eq!(holders.insert(filter, (core, client.number)), None);
                }
            }
            assert_eq!(holders.len() as u32, filters);
            for (core, clients) in plan.cores.iter().enumerate() {
                for publishes in clients.iter().filter_map(|one| one.publishes.as_ref()) {
                    let rotation = publishes.rotation.unwrap();
                    let mut numbers = BTreeSet::new();
                    for turn in 0..rotation.count {
                        let number = rotation.number(turn.into());
                        numbers.insert(number);
                        let of = |filter: String| holders[filter.as_str()];
                        let found = [
                            of(format!("t/{number:06}/+/t")),
                            of(format!("t/{number:06}/x/#")),
                            of(format!("+/{number:06}/x/+")),
                        ];
                        let different: BTreeSet<_> = found.iter().map(|one| one.1).collect();
                        assert_eq!(different.len(), 3);
                        assert!(found.iter().all(|one| one.0 == core));
                    }
                    assert_eq!(numbers.len() as u32, rotation.count);
                    let digits = &publishes.topic[rotation.at..rotation.at + rotation.digits];
                    assert_eq!(digits.parse::<u32>().ok(), Some(rotation.number(0)));
                }
            }
        }
    }

    #[test]
    fn topics_are_filled_in() {
        let names = Names {
            start_number: 40,
            username: "me".into(),
            ..names(1)
        };
        let plan = Plan::publish(&names, 3, "a/%i/%c/%u");
        let publishes = plan.cores[0][2].publishes.as_ref().unwrap();
        assert_eq!(publishes.topic, "a/42/t-p42/me");
        for template in ["", "%", "%%i%u%", "%x%c", "é%i"] {
            let filled = names.fill(template, Role::Idle, 7);
            let bytes = names.filled_bytes(template, Role::Idle, 7);
            assert_eq!(filled.len(), bytes, "{template}: {filled}");
        }
        let plan = Plan::subscribe(&names, 1, "a/%i/+");
        assert_eq!(*plan.cores[0][0].filters, ["a/40/+"]);
        let short = Names {
            short_ids: true,
            ..names
        };
        assert_eq!(short.client_id(Role::Subscriber, 2), "t42");
    }

    #[test]
    fn client_identifiers_differ() {
        let names = names(2);
        for plan in [
            Plan::pubsub(&names, 9),
            Plan::fanout(&names, 2, 9, 0, false),
            Plan::shared(&names, 9, 3),
            Plan::wild(&names, 3, 9, 90),
        ] {
            let ids: BTreeSet<_> = plan
                .clients()
                .map(|client| names.client_id(client.role, client.number))
                .collect();
            assert_eq!(ids.len(), plan.clients().count());
        }
    }
}
