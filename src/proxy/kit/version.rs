//! Versions of programs.

/// Parses the numbers at the beginning of `2.6.12-1+deb12u3`. `None` if there are fewer.
pub fn parse<const N: usize>(text: &str) -> Option<[u32; N]> {
    let parts = text.trim_start_matches('v').split(|c: char| !c.is_ascii_digit()).take(N);
    let numbers: Option<Vec<u32>> = parts.map(|part| part.parse().ok()).collect();
    numbers?.try_into().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_may_have_a_suffix_but_not_fewer_numbers() {
        assert_eq!(parse("2.6.12-1+deb12u3"), Some([2, 6]));
        assert_eq!(parse("v2.11.4 h1:abc"), Some([2, 11, 4]));
        assert_eq!(parse("1.29"), None::<[u32; 3]>);
        assert_eq!(parse("HAProxy"), None::<[u32; 2]>);
        assert_eq!(parse(""), None::<[u32; 2]>);
    }
}
