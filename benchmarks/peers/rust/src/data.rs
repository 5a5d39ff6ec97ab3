//! The events of `benchmarks/data.py`, made a second time: same fields, same bytes.

use batpak::prelude::*;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::sync::OnceLock;

pub const SCOPE: &str = "site:7";
pub const ENTITIES: u64 = 100;
/// Bytes of a payload as named-field MessagePack.
pub const PAYLOAD_SIZE: usize = 200;
pub const BATCH: u64 = 100;

const STR8_HEADER: usize = 2;
const EMPTY_STR: usize = 1;

/// What a sensor saw; `note` fills the encoding up to PAYLOAD_SIZE bytes.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, EventPayload)]
#[batpak(category = 0xF, type_id = 0x0BE)]
pub struct Measurement {
    pub number: u64,
    pub at_us: u64,
    pub quantity: String,
    pub value: f64,
    pub valid: bool,
    pub note: String,
}

/// The name of entity `number`, below ENTITIES.
pub fn entity(number: u64) -> String {
    format!("sensor:{number:03}")
}

/// The payload of event `number`; it belongs to entity `number % ENTITIES`.
pub fn measurement(number: u64) -> Measurement {
    let mut made = Measurement {
        number,
        at_us: 1_750_000_000_000_000 + 1_000 * number,
        quantity: "pressure".to_owned(),
        value: number as f64 * 0.125,
        valid: true,
        note: String::new(),
    };
    let length = PAYLOAD_SIZE - encode(&made).len() + EMPTY_STR - STR8_HEADER;
    let text = text();
    let start = number as usize * 37 % (text.len() - PAYLOAD_SIZE);
    made.note = text[start..start + length].to_owned();
    made
}

/// Payloads 0 … count - 1.
pub fn measurements(count: u64) -> Vec<Measurement> {
    (0..count).map(measurement).collect()
}

/// The bytes that the crate stores for a payload.
pub fn encode(value: &Measurement) -> Vec<u8> {
    batpak::encoding::to_bytes(value).expect("a measurement is plain data")
}

fn text() -> &'static str {
    static TEXT: OnceLock<String> = OnceLock::new();
    TEXT.get_or_init(|| {
        (0u8..64)
            .flat_map(|byte| Sha256::digest([byte]))
            .map(|byte| format!("{byte:02x}"))
            .collect()
    })
}
