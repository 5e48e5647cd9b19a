//! Writes the seeds that were made by hand: `cargo run --example seeds -- DIRECTORY` makes a directory per target.
//!
//! They are packets of every type and version, the malformed ones that other brokers fell over, and scenes for
//! the targets that take operations. `scripts/fuzz` puts them beside the corpus before it begins.

use std::fs;
use std::path::Path;

/// CONNECT of 3.1.1, of 5.0 and of 3.1, without flags but Clean Start.
const CONNECT_311: &str = "10 0d 00 04 4d 51 54 54 04 02 00 00 00 01 61";
const CONNECT_5: &str = "10 0e 00 04 4d 51 54 54 05 02 00 00 00 00 01 61";
const CONNECT_31: &str = "10 0f 00 06 4d 51 49 73 64 70 03 02 00 00 00 01 61";

/// What a client may send before or after CONNECT, most of it wrong; each is one packet or a few.
const PACKETS: &[&str] = &[
    CONNECT_311,
    CONNECT_5,
    CONNECT_31,
    // CONNECT: reserved flag, header flags, level 99, wrong name, overruns, empty, trailing bytes.
    "10 0d 00 04 4d 51 54 54 04 03 00 3c 00 01 61",
    "11 0d 00 04 4d 51 54 54 04 02 00 3c 00 01 61",
    "10 0d 00 04 4d 51 54 54 63 02 00 3c 00 01 61",
    "10 0e 00 04 4d 51 54 58 05 02 00 3c 00 00 01 61",
    "10 0d ff ff 4d 51 54 54 04 02 00 3c 00 01 61",
    "10 00",
    "10 0d 00 04 4d 51 54 54 04 02 00 3c ff ff 61",
    "10 12 00 04 4d 51 54 54 04 02 00 3c 00 01 61 00 03 61 62 63",
    // CONNECT: will of QoS 3, flags without a will, will missing, with a wildcard, empty with a delay.
    "10 13 00 04 4d 51 54 54 04 1e 00 3c 00 01 61 00 01 77 00 01 6d",
    "10 0d 00 04 4d 51 54 54 04 0a 00 3c 00 01 61",
    "10 0d 00 04 4d 51 54 54 04 06 00 3c 00 01 61",
    "10 15 00 04 4d 51 54 54 04 06 00 3c 00 01 61 00 03 61 2f 23 00 01 6d",
    "10 19 00 04 4d 51 54 54 05 06 00 3c 00 00 01 61 05 18 00 00 00 01 00 00 00 01 6d",
    "10 1e 00 04 4d 51 54 54 05 c6 00 3c 00 00 01 61 02 01 01 00 01 77 00 01 6d 00 01 75 00 01 70",
    // CONNECT: password without user name; U+0000, surrogate and overlong form in the identifier; none.
    "10 10 00 04 4d 51 54 54 04 42 00 3c 00 01 61 00 01 70",
    "10 0f 00 04 4d 51 54 54 04 02 00 3c 00 03 61 00 62",
    "10 10 00 04 4d 51 54 54 04 02 00 3c 00 04 61 ed a0 80",
    "10 0f 00 04 4d 51 54 54 04 02 00 3c 00 03 61 c0 af",
    "10 0c 00 04 4d 51 54 54 04 00 00 3c 00 00",
    // CONNECT properties: all; twice; zeros; 2 for a flag; data without a method; misplaced; unknown; overrun.
    "10 2b 00 04 4d 51 54 54 05 02 00 3c 1d 11 00 00 00 64 21 00 03 27 00 00 01 00 22 00 04 19 01 17 00 26 00 01 6b 00 01 76 00 01 61",
    "10 18 00 04 4d 51 54 54 05 02 00 3c 0a 11 00 00 00 01 11 00 00 00 01 00 01 61",
    "10 11 00 04 4d 51 54 54 05 02 00 3c 03 21 00 00 00 01 61",
    "10 13 00 04 4d 51 54 54 05 02 00 3c 05 27 00 00 00 00 00 01 61",
    "10 10 00 04 4d 51 54 54 05 02 00 3c 02 17 02 00 01 61",
    "10 12 00 04 4d 51 54 54 05 02 00 3c 04 16 00 01 78 00 01 61",
    "10 11 00 04 4d 51 54 54 05 02 00 3c 03 23 00 01 00 01 61",
    "10 10 00 04 4d 51 54 54 05 02 00 3c 02 7f 00 00 01 61",
    "10 13 00 04 4d 51 54 54 05 02 00 3c 7f 11 00 00 00 01 00 01 61",
    "10 15 00 04 4d 51 54 54 05 02 00 3c 07 15 00 04 4e 4f 50 45 00 01 61",
    // Lengths: five bytes, longer than needed, 256 MiB; reserved types; other protocols.
    "10 ff ff ff ff 7f",
    "30 84 00 00 01 74 78",
    "30 ff ff ff 7f 00 01 74 78",
    "00 00",
    "f0 00",
    "47 45 54 20 2f 20 48 54 54 50 2f 31 2e 31 0d 0a",
    "16 03 01 00 a5 01 00 00 a1 03 03",
    // What only a server sends.
    "20 02 00 00",
    "20 03 00 00 00",
    "20 13 01 00 10 21 00 0a 24 01 25 00 12 00 01 61 1f 00 01 72 2a 00",
    "90 03 00 01 00",
    "90 04 00 01 00 02",
    "b0 02 00 01",
    "b0 04 00 01 00 00",
    "d0 00",
    // PINGREQ and DISCONNECT.
    "c0 00",
    "c1 00",
    "c0 01 00",
    "e0 00",
    "e1 00",
    "e0 01 01",
    "e0 01 04",
    "e0 07 00 05 11 00 00 00 3c",
    // SUBSCRIBE.
    "82 06 00 01 00 01 74 00",
    "82 07 00 01 00 00 01 74 01",
    "82 09 00 01 02 0b 07 00 01 74 2d",
    "80 06 00 01 00 01 74 00",
    "82 02 00 01",
    "82 06 00 01 00 01 74 03",
    "82 07 00 01 00 00 01 74 c0",
    "82 07 00 01 00 00 01 74 30",
    "82 06 00 00 00 01 74 00",
    "82 0a 00 01 00 05 61 2f 23 2f 62 00",
    "82 09 00 01 00 04 61 2b 2f 62 00",
    "82 05 00 01 00 00 00",
    "82 06 00 01 ff ff 61 00",
    "82 09 00 01 02 0b 00 00 01 74 00",
    "82 0b 00 01 04 0b 01 0b 02 00 01 74 00",
    "82 0f 00 01 00 00 09 24 73 68 61 72 65 2f 2f 74 00",
    "82 11 00 01 00 00 0b 24 73 68 61 72 65 2f 61 2b 2f 74 00",
    "82 0e 00 01 00 00 08 24 73 68 61 72 65 2f 61 00",
    "82 10 00 01 00 00 0a 24 73 68 61 72 65 2f 61 2f 74 04",
    "82 10 00 01 00 00 0a 24 73 68 61 72 65 2f 61 2f 74 01",
    // UNSUBSCRIBE.
    "a2 05 00 01 00 01 74",
    "a2 06 00 01 00 00 01 74",
    "a2 02 00 01",
    "a0 05 00 01 00 01 74",
    "a2 0d 00 01 00 00 08 24 73 68 61 72 65 2f 2f",
    // PUBLISH.
    "30 04 00 01 74 78",
    "30 05 00 01 74 00 78",
    "31 04 00 01 74 78",
    "32 06 00 01 74 00 01 78",
    "3d 07 00 01 74 00 07 00 78",
    "36 06 00 01 74 00 01 78",
    "38 04 00 01 74 78",
    "32 06 00 01 74 00 00 78",
    "30 06 00 03 61 2f 2b 78",
    "30 03 00 00 78",
    "30 04 00 00 00 78",
    "30 06 00 03 61 00 62 78",
    "30 04 00 01 24 78 30 05 00 02 24 2f 78",
    "30 06 00 03 61 ff fe 78",
    "30 00",
    "30 01 00",
    "30 04 ff ff 61 62",
    "32 03 00 01 61",
    "30 08 00 01 74 03 23 00 00 78",
    "30 08 00 01 74 03 23 00 02 78 30 07 00 00 03 23 00 02 79",
    "30 08 00 01 74 03 23 ff ff 78",
    "30 07 00 00 03 23 00 01 78",
    "30 07 00 01 74 02 0b 01 78",
    "30 0b 00 01 74 06 0b 01 0b ff ff 01 78",
    "30 07 00 01 74 02 01 02 78",
    "30 0b 00 01 74 06 08 00 03 61 2f 23 78",
    "30 1f 00 01 74 1a 01 01 02 00 00 00 09 03 00 01 63 08 00 01 72 09 00 01 64 26 00 01 6b 00 01 76 78",
    "30 09 00 01 74 ff ff ff ff 01 78",
    "30 08 00 01 74 7f 26 ff ff 6b",
    "30 09 00 01 74 04 26 00 01 6b 78",
    // Acknowledgements.
    "40 02 12 34",
    "40 03 00 01 10",
    "40 03 00 01 01",
    "40 09 00 01 00 05 1f 00 02 6f 6b",
    "50 02 12 34",
    "62 02 12 34",
    "6a 02 12 34",
    "60 02 00 01",
    "70 02 00 01",
    "70 01 00",
    // AUTH.
    "f0 08 18 06 15 00 03 61 62 63",
];

fn main() {
    let directory = std::env::args().nth(1).expect("usage: seeds DIRECTORY");
    let directory = Path::new(&directory);
    for (n, packet) in PACKETS.iter().enumerate() {
        let bytes = bytes(packet);
        for mode in 0..2 {
            write(
                directory,
                "decode_packet",
                &format!("packet-{n}-{mode}"),
                &[&[mode], &bytes[..]].concat(),
            );
        }
    }
    for (mode, hello) in [CONNECT_311, CONNECT_5, CONNECT_31].iter().enumerate() {
        for (n, packets) in PACKETS.chunks(4).enumerate() {
            // With the CONNECT of the target, in pieces of 1 and 3 bytes.
            let mut seed = vec![mode as u8, 2, 0, 2];
            packets.iter().for_each(|packet| seed.extend(bytes(packet)));
            write(
                directory,
                "decode_stream",
                &format!("packets-{n}-{mode}"),
                &seed,
            );
        }
        let own = [
            &[mode as u8 | 0x40, 1, 6][..],
            &bytes(hello),
            &bytes("c0 00 e0 00"),
        ]
        .concat();
        write(directory, "decode_stream", &format!("connect-{mode}"), &own);
    }
    let mut random = Random(1);
    for n in 0..24 {
        for target in [
            "round_trip",
            "filter_match",
            "retained_scan",
            "shard_inputs",
        ] {
            write(
                directory,
                target,
                &format!("random-{n}"),
                &random.bytes(40 + 10 * n),
            );
        }
    }
    for kind in 0..11 {
        for version in 0..3 {
            let seed = [&[kind, version][..], &random.bytes(120)].concat();
            write(
                directory,
                "round_trip",
                &format!("kind-{kind}-{version}"),
                &seed,
            );
        }
    }
    scenes(directory);
    transports(directory);
}

/// What lies between a socket and MQTT, right and wrong.
fn transports(directory: &Path) {
    let frames = [
        "82 8f 00 00 00 00 10 0d 00 04 4d 51 54 54 04 02 00 00 00 01 61",
        "02 83 01 02 03 04 11 0f 03 89 81 00 00 00 00 3f 80 82 01 02 03 04 05 06",
        "81 85 37 fa 21 3d 7f 9f 4d 51 58",
        "82 fe 00 7e 00 00 00 00 01",
        "82 ff 00 00 00 00 00 01 00 00 00 00 00 00 01",
        "88 82 00 00 00 00 03 e8 82 80 00 00 00 00",
        "88 81 00 00 00 00 03",
        "09 80 00 00 00 00",
        "82 03 48 65 6c 8a 00 89 01 3f 88 00",
    ];
    for (n, frames) in frames.iter().enumerate() {
        for role in 0..2 {
            let seed = [&[role, 2, 0, 2][..], &bytes(frames)].concat();
            write(directory, "ws_frame", &format!("frames-{n}-{role}"), &seed);
        }
    }
    let configs = [
        "cores = 2\npin = true\n[limits]\npacket-bytes-max = \"1MiB\"\nconnect-timeout = \"5s\"\nqueue-full = \"drop-newest\"\n",
        "[listener.a]\nbind = \"127.0.0.1:1883\"\n[listener.b]\nbind = \"[::1]:0\"\n\u{1}RINGMQ_LIMITS__SESSIONS_MAX=7",
        "data-dir = \"/tmp/x\"\nlog-level = \"warn\"\nlimits.session-expiry-max = \"infinity\"\n\u{1}STATE_DIRECTORY=/a:/b",
        "x = [1, 2]\ny = { z = 1979-05-27 }\n\u{1}RINGMQ_CORES=auto",
    ];
    for (n, text) in configs.iter().enumerate() {
        write(directory, "config", &n.to_string(), text.as_bytes());
    }
    for (n, text) in [
        "[]",
        "[[1,2],[3,0,4,5]]",
        "[[18446744073709551615,63,1]]",
        "[[1,256]]",
        "[[]]",
    ]
    .iter()
    .enumerate()
    {
        write(directory, "record_decode", &n.to_string(), text.as_bytes());
    }
    let mut version_2 = bytes("0d 0a 0d 0a 00 0d 0a 51 55 49 54 0a 21 11 00 0c");
    version_2.extend(bytes("0a 00 00 01 0a 00 00 02 1f 90 00 50"));
    let headers = [
        &b"PROXY TCP4 10.0.0.1 10.0.0.2 8080 80\r\n"[..],
        b"PROXY TCP6 fd00::1 ::1 9 80\r\nmore",
        b"PROXY UNKNOWN\r\n",
        b"PROXY TCP4 10.0.0.1",
        &version_2,
        &version_2[..20],
        b"\x10\x0c",
    ];
    for (n, header) in headers.iter().enumerate() {
        write(directory, "proxy_header", &format!("header-{n}"), header);
    }
    let request = "GET /mqtt HTTP/1.1\r\nHost: h\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let fields = [
        "",
        "Sec-WebSocket-Protocol: mqtt, mqttv3.1\r\n",
        "Origin: https://a\r\nX-Forwarded-For: 10.0.0.1, [::1]:80\r\n",
        "Host: other\r\n",
        "Content-Length: 3\r\n",
        " folded\r\n",
    ];
    for (n, fields) in fields.iter().enumerate() {
        for allows in 0..4 {
            let seed = [
                &[allows][..],
                request.as_bytes(),
                fields.as_bytes(),
                b"\r\n\x82\x80",
            ]
            .concat();
            write(
                directory,
                "http_upgrade",
                &format!("request-{n}-{allows}"),
                &seed,
            );
        }
    }
    let answer = b"\0HTTP/1.1 101 Switching Protocols\r\nSec-WebSocket-Accept: AAAAAAAAAAAAAAAAAAAAAAAAAAA=\r\n\r\n";
    write(directory, "http_upgrade", "answer", answer);
    // See the target: pieces, answers, and in between damage, parts of records, closes.
    let flights: [&[u8]; 6] = [
        &[7, 255, 255, 5, 7, 255, 255, 6, 7, 255, 255, 5],
        &[7, 0, 9, 7, 1, 0, 7, 255, 255, 5, 7, 0, 40, 7, 255, 255],
        &[2, 100, 7, 0, 104, 3, 7, 255, 255],
        &[2, 3, 7, 0, 7, 2, 3, 7, 0, 7, 4, 7, 255, 255],
        &[0, 0, 5, 4, 7, 255, 255, 5],
        &[7, 255, 255, 5, 0, 0, 20, 1, 7, 255, 255, 4, 3],
    ];
    for (n, flight) in flights.iter().enumerate() {
        write(directory, "tls_session", &format!("flight-{n}"), flight);
    }
}

/// Scenes of `shard_inputs`: see there for what the bytes mean.
fn scenes(directory: &Path) {
    let scene = |name: &str, operations: &[Vec<u8>]| {
        for (mode, limits) in [(0, 0), (1, 0), (2, 1), (0xE1, 0), (0xE2, 9)] {
            let seed = [vec![mode, limits], operations.concat()].concat();
            write(
                directory,
                "shard_inputs",
                &format!("{name}-{mode:x}"),
                &seed,
            );
        }
    };
    let quiet = || vec![30];
    let acknowledge = |peer: u8| vec![13 | peer << 5, 0];
    // Topics and filters of one level, "a".
    let subscribe = |peer: u8, options: u8| vec![5 | peer << 5, 0, 6, 0, 0, 0, options, 1];
    let subscribe_shared = |peer: u8| vec![5 | peer << 5, 0, 6, 8, 0, 0, 1, 1];
    let unsubscribe = |peer: u8| vec![5 | peer << 5, 0, 9, 0, 0, 0, 0, 1];
    let publish = |peer: u8, bits: u8, len: u8| match bits & 3 {
        0 => vec![5 | peer << 5, 0, 0, bits, 0, 0, len],
        _ => vec![5 | peer << 5, 0, 0, bits, 0, 0, len, 1],
    };
    for (version, more) in [(0_u8, &[][..]), (1, &[1, 50][..]), (2, &[])] {
        let connect = |peer: u8, shard: u8, flags: u8| {
            [&[1 | peer << 5, shard, version, 0xE0 | flags][..], more].concat()
        };
        let exchange = |qos: u8| {
            vec![
                connect(0, 0, 1),
                connect(1, 1, 0),
                connect(2, 2, 1),
                subscribe(0, qos),
                subscribe(1, qos),
                subscribe_shared(2),
                quiet(),
                publish(2, qos, 3),
                publish(1, qos | 4, 200),
                quiet(),
                acknowledge(0),
                acknowledge(1),
                quiet(),
                acknowledge(0),
                acknowledge(1),
                quiet(),
                unsubscribe(0),
                quiet(),
            ]
        };
        for qos in 0..3 {
            scene(&format!("exchange-{version}-{qos}"), &exchange(qos));
        }
        let mut resume = exchange(2);
        resume.push(vec![20 | 1 << 5, 1]);
        resume.extend([
            publish(0, 1, 200),
            publish(0, 2, 250),
            connect(1, 2, 0),
            quiet(),
        ]);
        resume.extend([
            vec![16 | 1 << 5, 7],
            acknowledge(1),
            connect(1, 0, 0),
            quiet(),
        ]);
        scene(&format!("resume-{version}"), &resume);
        let mut takeover = exchange(1);
        takeover.extend([
            vec![2 | 3 << 5, 0, version, 1],
            more.to_vec(),
            vec![19],
            quiet(),
        ]);
        scene(&format!("takeover-{version}"), &takeover);
        let mut pressure = exchange(1);
        pressure.extend([
            vec![25, 2, 1],
            vec![25 | 1 << 5, 1, 0],
            publish(0, 1, 9),
            publish(1, 1, 9),
        ]);
        pressure.extend([
            vec![25, 0, 1],
            vec![25 | 1 << 5, 0, 0],
            quiet(),
            vec![28, 200],
        ]);
        scene(&format!("pressure-{version}"), &pressure);
        for (n, packets) in PACKETS.chunks(6).enumerate() {
            let mut operations = vec![connect(4, 0, 1), connect(0, 1, 1), subscribe(0, 1), quiet()];
            for packet in packets {
                let packet = bytes(packet);
                operations.push(vec![3, packet.len() as u8, 2]);
                operations.extend([packet, quiet(), connect(0, 2, 0)]);
            }
            let seed = [vec![n as u8 % 3, n as u8], operations.concat()].concat();
            write(
                directory,
                "shard_inputs",
                &format!("packets-{n}-{version}"),
                &seed,
            );
        }
    }
}

fn bytes(hex: &str) -> Vec<u8> {
    hex.split(' ')
        .map(|byte| u8::from_str_radix(byte, 16).expect("two digits"))
        .collect()
}

fn write(directory: &Path, target: &str, name: &str, bytes: &[u8]) {
    let directory = directory.join(target);
    fs::create_dir_all(&directory).expect("the directory can be made");
    fs::write(directory.join(name), bytes).expect("the seed can be written");
}

/// SplitMix64.
struct Random(u64);

impl Random {
    fn bytes(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while bytes.len() < len {
            self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mut z = self.0;
            z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            bytes.extend((z ^ (z >> 31)).to_be_bytes());
        }
        bytes.truncate(len);
        bytes
    }
}
