//! Builders of protocol messages. Knows nothing of the walker but its protocol codes.

use tracer_ebpf::wire::{CODE_CANCEL, CODE_GSSENC, CODE_SSL};

/// A message with a type byte.
pub fn message(kind: u8, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len() + 4).expect("short in tests");
    let mut bytes = vec![kind];
    bytes.extend(len.to_be_bytes());
    bytes.extend(payload);
    bytes
}

fn strings(parts: &[&str]) -> Vec<u8> {
    parts.iter().flat_map(|part| part.bytes().chain([0])).collect()
}

fn first(code: u32, payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len() + 8).expect("short in tests");
    [&len.to_be_bytes(), &code.to_be_bytes(), payload].concat()
}

pub fn ssl_request() -> Vec<u8> {
    first(CODE_SSL, b"")
}

pub fn gss_request() -> Vec<u8> {
    first(CODE_GSSENC, b"")
}

pub fn cancel_request() -> Vec<u8> {
    first(CODE_CANCEL, &[0, 0, 0x10, 0x92, 1, 2, 3, 4])
}

pub fn startup() -> Vec<u8> {
    first(3 << 16, &[PARAMETERS, b"\0"].concat())
}

/// The parameters of [`startup`].
pub const PARAMETERS: &[u8] = b"user\0shop\0database\0orders\0application_name\0till\0";

pub fn query(sql: &str) -> Vec<u8> {
    message(b'Q', &strings(&[sql]))
}

pub fn parse(name: &str, sql: &str) -> Vec<u8> {
    message(b'P', &[&strings(&[name, sql])[..], &[0, 0]].concat())
}

/// Bind of the unnamed portal with text parameters.
pub fn bind(name: &str, parameters: &[&str]) -> Vec<u8> {
    let mut payload = strings(&["", name]);
    payload.extend([0, 0]);
    payload.extend(u16::try_from(parameters.len()).expect("short in tests").to_be_bytes());
    for parameter in parameters {
        payload.extend(u32::try_from(parameter.len()).expect("short in tests").to_be_bytes());
        payload.extend(parameter.bytes());
    }
    payload.extend([0, 0]);
    message(b'B', &payload)
}

pub fn describe(name: &str) -> Vec<u8> {
    message(b'D', &[b"S", &strings(&[name])[..]].concat())
}

pub fn execute() -> Vec<u8> {
    message(b'E', &[0, 0, 0, 0, 0])
}

pub fn sync() -> Vec<u8> {
    message(b'S', b"")
}

pub fn flush() -> Vec<u8> {
    message(b'H', b"")
}

pub fn function_call() -> Vec<u8> {
    message(b'F', &[0, 0, 4, 0xbc, 0, 0, 0, 0, 0, 0])
}

pub fn terminate() -> Vec<u8> {
    message(b'X', b"")
}

pub fn password() -> Vec<u8> {
    message(b'p', b"md5d41d8cd98f00b204e9800998ecf8427e\0")
}

/// Parse, Bind, Describe, Execute, Sync of the unnamed statement.
pub fn extended(sql: &str) -> Vec<u8> {
    [parse("", sql), bind("", &["7"]), describe(""), execute(), sync()].concat()
}

pub fn copy_data(data: &[u8]) -> Vec<u8> {
    message(b'd', data)
}

pub fn copy_done() -> Vec<u8> {
    message(b'c', b"")
}

pub fn ready(status: u8) -> Vec<u8> {
    message(b'Z', &[status])
}

pub fn complete(tag: &str) -> Vec<u8> {
    message(b'C', &strings(&[tag]))
}

pub fn row_description() -> Vec<u8> {
    let column = [&strings(&["id"])[..], &[0; 18]].concat();
    message(b'T', &[&[0, 1], &column[..]].concat())
}

pub fn row(value: &str) -> Vec<u8> {
    let len = u32::try_from(value.len()).expect("short in tests");
    message(b'D', &[&[0, 1][..], &len.to_be_bytes(), value.as_bytes()].concat())
}

/// RowDescription, one row, CommandComplete.
pub fn one_row() -> Vec<u8> {
    [row_description(), row("1"), complete("SELECT 1")].concat()
}

/// What answers [`extended`], without ReadyForQuery.
pub fn extended_answer() -> Vec<u8> {
    [message(b'1', b""), message(b'2', b""), one_row()].concat()
}

pub fn error(text: &str) -> Vec<u8> {
    message(b'E', &[&strings(&["SERROR", "C42601"])[..], b"M", &strings(&[text]), &[0]].concat())
}

pub fn notice() -> Vec<u8> {
    message(b'N', &[&strings(&["SNOTICE", "C00000", "Mhello"])[..], &[0]].concat())
}

pub fn parameter_status(name: &str, value: &str) -> Vec<u8> {
    message(b'S', &strings(&[name, value]))
}

pub fn notification() -> Vec<u8> {
    message(b'A', &[&[0, 0, 1, 2], &strings(&["jobs", "42"])[..]].concat())
}

pub fn authentication_ok() -> Vec<u8> {
    message(b'R', &[0, 0, 0, 0])
}

pub fn backend_key(pid: u32) -> Vec<u8> {
    message(b'K', &[pid.to_be_bytes(), [0xde, 0xad, 0xbe, 0xef]].concat())
}

/// AuthenticationOk, so many parameters, BackendKeyData, ReadyForQuery.
pub fn startup_answer(parameters: usize, pid: u32) -> Vec<u8> {
    let mut bytes = authentication_ok();
    for index in 0..parameters {
        bytes.extend(parameter_status(&format!("parameter_{index}"), "on"));
    }
    bytes.extend(backend_key(pid));
    bytes.extend(ready(b'I'));
    bytes
}

/// CopyInResponse (`G`), CopyOutResponse (`H`) or CopyBothResponse (`W`) of two text columns.
pub fn copy_response(kind: u8) -> Vec<u8> {
    message(kind, &[0, 0, 2, 0, 0, 0, 0])
}

/// A record header of TLS and the first bytes of the record.
pub fn tls_record(kind: u8) -> Vec<u8> {
    let mut bytes = vec![kind, 3, 3, 0, 64];
    bytes.extend((0..64).map(|byte: u8| byte.wrapping_mul(37)));
    bytes
}
