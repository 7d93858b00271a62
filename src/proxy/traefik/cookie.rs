//! The default name of a sticky cookie. Traefik derives the name from the name of the service, which differs in
//! our file. Without the original name every client would get another instance.

/// Cookie name as Traefik derives it. Source: traefik `pkg/server/cookie/cookie.go`.
pub fn default_name(service: &str) -> String {
    let hash = sha1(format!("_TRAEFIK_BACKEND_{service}").as_bytes());
    let hex: String = hash.iter().map(|word| format!("{word:08x}")).collect();
    format!("_{}", &hex[..5])
}

/// SHA-1. Source: RFC 3174, section 6.1.
fn sha1(text: &[u8]) -> [u32; 5] {
    let mut message = text.to_vec();
    message.push(0x80);
    message.resize((message.len() + 8).next_multiple_of(64) - 8, 0);
    message.extend((text.len() as u64 * 8).to_be_bytes());
    let mut hash = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476, 0xc3d2_e1f0_u32];
    for block in message.chunks(64) {
        let mut words: Vec<u32> =
            block.chunks(4).map(|w| u32::from_be_bytes(w.try_into().expect("four bytes"))).collect();
        for t in 16..80 {
            words.push((words[t - 3] ^ words[t - 8] ^ words[t - 14] ^ words[t - 16]).rotate_left(1));
        }
        let [mut a, mut b, mut c, mut d, mut e] = hash;
        for (t, word) in words.into_iter().enumerate() {
            let (mixed, constant) = match t {
                0..20 => ((b & c) | (!b & d), 0x5a82_7999),
                20..40 => (b ^ c ^ d, 0x6ed9_eba1),
                40..60 => ((b & c) | (b & d) | (c & d), 0x8f1b_bcdc),
                _ => (b ^ c ^ d, 0xca62_c1d6_u32),
            };
            let next = [a.rotate_left(5), mixed, e, word, constant].into_iter().fold(0, u32::wrapping_add);
            (e, d, c, b, a) = (d, c, b.rotate_left(30), a, next);
        }
        for (sum, part) in hash.iter_mut().zip([a, b, c, d, e]) {
            *sum = sum.wrapping_add(part);
        }
    }
    hash
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cookie_is_named_as_traefik_names_it() {
        assert_eq!(default_name("app@file"), "_fb0b0", "as observed with Traefik 3.7.15");
        assert_eq!(default_name("app@docker"), "_a9f6e");
    }

    #[test]
    fn a_hash_of_any_length_matches_the_standard() {
        let hex = |text: &str| sha1(text.as_bytes()).map(|w| format!("{w:08x}")).concat();
        assert_eq!(hex(""), "da39a3ee5e6b4b0d3255bfef95601890afd80709");
        assert_eq!(hex("abc"), "a9993e364706816aba3e25717850c26c9cd0d89d");
        let long = "abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq";
        assert_eq!(hex(long), "84983e441c3bd26ebaae4aa1f95129e5e54670f1");
        assert_eq!(hex(&"a".repeat(64)), "0098ba824b5c16427bd7a1122a5a442a25ec644d");
        assert_eq!(hex(&"a".repeat(55)), "c1c8bbdc22796e28c0e15163d20899b65621d65a");
    }
}
