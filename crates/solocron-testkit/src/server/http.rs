//! HTTP/1.1 as far as etcd's JSON gateway needs it: one POST on one connection, an answer in one piece or in chunks (RFC 9112).

use std::io::{self, Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// Posts `body` and returns the status and body of the answer, which must come within `patience`.
pub(crate) fn post(
    to: SocketAddr,
    path: &str,
    token: Option<&str>,
    body: &str,
    patience: Duration,
) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect_timeout(&to, patience)?;
    stream.set_read_timeout(Some(patience))?;
    stream.set_write_timeout(Some(patience))?;
    let authorization =
        token.map(|token| format!("Authorization: {token}\r\n")).unwrap_or_default();
    let length = body.len();
    let request = format!(
        "POST {path} HTTP/1.1\r\nHost: {to}\r\nConnection: close\r\n{authorization}Content-Length: {length}\r\n\r\n{body}"
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer)?;
    parse(&answer).ok_or_else(|| {
        let answer = String::from_utf8_lossy(&answer);
        io::Error::new(io::ErrorKind::InvalidData, format!("not an answer: {answer:?}"))
    })
}

fn parse(answer: &[u8]) -> Option<(u16, String)> {
    let end = answer.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = std::str::from_utf8(&answer[..end]).ok()?;
    let mut body = &answer[end + 4..];
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    if !head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
        return Some((status, String::from_utf8(body.to_vec()).ok()?));
    }
    let mut whole = Vec::new();
    loop {
        let line = body.windows(2).position(|two| two == b"\r\n")?;
        let size = std::str::from_utf8(&body[..line]).ok()?;
        let size = usize::from_str_radix(size, 16).ok()?;
        if size == 0 {
            return Some((status, String::from_utf8(whole).ok()?));
        }
        whole.extend_from_slice(body.get(line + 2..line + 2 + size)?);
        body = body.get(line + 2 + size + 2..)?;
    }
}

/// The first value called `name` in this JSON, which must be a string or a number without anything escaped.
pub(crate) fn field<'a>(json: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = json.split_once(&format!("\"{name}\":"))?;
    let rest = rest.trim_start();
    match rest.strip_prefix('"') {
        Some(text) => text.split('"').next(),
        None => rest.split([',', '}', ']']).next().map(str::trim),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_in_chunks_is_put_together() {
        let wire = b"HTTP/1.1 404 Not Found\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{\"a\r\n5\r\n\":1}\n\r\n0\r\nTrailer: x\r\n\r\n";
        assert_eq!(parse(wire), Some((404, "{\"a\":1}\n".into())));
        assert_eq!(parse(&wire[..wire.len() - 20]), None);
    }

    #[test]
    fn a_field_is_found_wherever_it_is() {
        let json = r#"{"header":{"revision":"12","term":3},"leader":"7"}"#;
        let found = ["revision", "term", "leader", "nothing"].map(|name| field(json, name));
        assert_eq!(found, [Some("12"), Some("3"), Some("7"), None]);
    }
}
