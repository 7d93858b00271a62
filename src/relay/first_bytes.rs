//! First bytes of a connection: HTTP or not, and a complete request or not.

/// First bytes of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FirstBytes {
    /// Another protocol, TLS for example. HTTP/2 counts as one, because an answer of HTTP/1 is none for it.
    Other,
    /// Request of HTTP/1 whose rest has not come.
    Partial,
    /// Whole request of HTTP/1.
    Request,
}

/// Longest method that counts as HTTP.
const MAX_METHOD: usize = 20;

/// Kind of the first bytes.
pub fn classify(bytes: &[u8]) -> FirstBytes {
    if !is_http(bytes) {
        return FirstBytes::Other;
    }
    let Some(end) = find(bytes, b"\r\n\r\n") else { return FirstBytes::Partial };
    let (head, body) = (String::from_utf8_lossy(&bytes[..end]), &bytes[end + 4..]);
    let header = |name: &str| {
        let fields = head.lines().skip(1).filter_map(|line| line.split_once(':'));
        fields.filter(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| value.trim()).last()
    };
    let is_whole = if header("transfer-encoding").is_some() {
        body.ends_with(b"0\r\n\r\n")
    } else {
        header("content-length")
            .is_none_or(|length| length.parse().is_ok_and(|length: usize| body.len() >= length))
    };
    if is_whole { FirstBytes::Request } else { FirstBytes::Partial }
}

/// The bytes begin with a method, as far as they have come. `PRI` begins HTTP/2.
fn is_http(bytes: &[u8]) -> bool {
    let method = bytes.split(|byte| *byte == b' ').next().unwrap_or_default();
    let is_method =
        !method.is_empty() && method.iter().all(|byte| byte.is_ascii_uppercase() || *byte == b'-');
    is_method && method.len() <= MAX_METHOD && method != b"PRI"
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_are_a_request_a_part_of_one_or_another_protocol() {
        use FirstBytes::{Other, Partial, Request};
        let cases: [(&str, FirstBytes); 14] = [
            ("GET / HTTP/1.1\r\nHost: a\r\n\r\n", Request),
            ("G", Partial),
            ("GET / HTTP/1.1\r\nHost: a\r\n", Partial),
            ("POST / HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc", Request),
            ("POST / HTTP/1.1\r\nContent-Length: 4\r\n\r\nabc", Partial),
            ("POST / HTTP/1.1\r\nContent-Length: no\r\n\r\nabc", Partial),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", Partial),
            ("POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n", Request),
            ("M-SEARCH * HTTP/1.1\r\n\r\n", Request),
            ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Other),
            ("\u{16}\u{3}\u{1}", Other),
            ("hello", Other),
            ("AMETHODTHATISMUCHTOOLONG / HTTP/1.1\r\n\r\n", Other),
            ("", Other),
        ];
        for (bytes, kind) in cases {
            assert_eq!(classify(bytes.as_bytes()), kind, "{bytes:?}");
        }
    }
}
