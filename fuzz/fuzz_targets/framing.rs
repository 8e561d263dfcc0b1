//! HTTP/1.1 messages: where they end, and whether a connection may be another client's after them, beside hyper.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| nodetls::fuzzing::framing(bytes));
