//! Where an answer ends.
//!
//! Over HTTP/2 a server sends settings, pings and window updates whenever it likes, before and after it has done what was asked. The
//! answer has been given when a frame ends its stream (RFC 9113, sections 4.1 and 5.1). Every other protocol here is taken to be
//! silent until it answers.

/// How a client over HTTP/2 begins (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n";

/// Follows the answers of one connection.
#[derive(Debug, Default)]
pub(super) struct Answers {
    opening: Vec<u8>,
    header: Vec<u8>,
    payload: usize,
}

impl Answers {
    /// Sees bytes of the client.
    pub(super) fn asked(&mut self, bytes: &[u8]) {
        let missing = PREFACE.len() - self.opening.len();
        self.opening.extend(bytes.iter().take(missing));
    }

    /// Sees bytes of the server, and says whether an answer ends in them.
    pub(super) fn answered(&mut self, mut bytes: &[u8]) -> bool {
        if self.opening != PREFACE {
            return !bytes.is_empty();
        }
        let mut ended = false;
        while !bytes.is_empty() {
            if self.payload > 0 {
                let skipped = self.payload.min(bytes.len());
                self.payload -= skipped;
                bytes = &bytes[skipped..];
                continue;
            }
            let missing = 9 - self.header.len();
            let (more, rest) = bytes.split_at(missing.min(bytes.len()));
            self.header.extend_from_slice(more);
            bytes = rest;
            if let [a, b, c, kind, flags, ..] = self.header[..]
                && self.header.len() == 9
            {
                self.payload = usize::from(a) << 16 | usize::from(b) << 8 | usize::from(c);
                self.header.clear();
                const DATA: u8 = 0;
                const HEADERS: u8 = 1;
                const RST_STREAM: u8 = 3;
                const END_STREAM: u8 = 1;
                ended |= match kind {
                    DATA | HEADERS => flags & END_STREAM != 0,
                    RST_STREAM => true,
                    _ => false,
                };
            }
        }
        ended
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn any_byte_answers_where_a_server_speaks_only_when_asked() {
        let mut answers = Answers::default();
        answers.asked(b"*1\r\n$4\r\nPING\r\n");
        assert!(!answers.answered(b""));
        assert!(answers.answered(b"+"));
    }

    #[test]
    fn the_end_of_a_stream_answers_over_http_2_wherever_the_bytes_are_split() {
        let wire = [
            frame(4, 0, &[1; 6]),        // settings
            frame(6, 1, &[0; 8]),        // the acknowledgement of a ping
            frame(1, 4, b"status 200"),  // headers
            frame(0, 0, &[1; 30]),       // data that holds an END_STREAM flag nowhere
            frame(1, 5, b"grpc-status"), // trailers: headers that end the stream
        ]
        .concat();
        let end = wire.len() - b"grpc-status".len();
        for size in 1..wire.len() {
            let mut answers = Answers::default();
            for piece in [&PREFACE[..5], &PREFACE[5..], b"SM\r\n\r\nmore"] {
                answers.asked(piece);
            }
            let mut seen = 0;
            let mut ended = Vec::new();
            for piece in wire.chunks(size) {
                seen += piece.len();
                ended.push((answers.answered(piece), seen));
            }
            let first = ended.iter().find(|(ended, _)| *ended).expect("it ends").1;
            assert!(
                first >= end && first - end < size,
                "split by {size}: seen at {first}, is at {end}"
            );
        }
    }
}
