//! Space on the engine's disk for the images that a deploy pulls or builds.

use super::memory::human_size;
use crate::finding::Finding;

/// Space below which nothing is pulled or built. A disk that fills up stops databases and logs of all containers.
const LEAST: u64 = 256 << 20;

/// Factor between an image and the space that its pull or build needs: the layers exist once as they arrive, and once
/// unpacked.
const FACTOR: u64 = 2;

const RULE: &str = "too-little-disk";

/// Finding for images to come, of which each is taken to be as large as the one that runs: their real sizes are unknown.
/// `sizes` are those of the running images, and `free` is the free space, both in bytes.
pub fn finding(sizes: &[u64], free: u64) -> Option<Finding> {
    let needed = sizes.iter().fold(0u64, |sum, size| sum.saturating_add(*size)).saturating_mul(FACTOR);
    let hint = "free space with `docker system df` and `docker image prune`; `--prune` removes images of older releases";
    if free < LEAST {
        let (free, least) = (human_size(free), human_size(LEAST));
        let message = format!("the engine's disk has {free} free, and new images need at least {least}");
        return Some(Finding::unchanged(RULE, message, hint).nothing_changed());
    }
    let (free_text, needed_text) = (human_size(free), human_size(needed));
    let message = format!(
        "the engine's disk has {free_text} free, and the new images may need {needed_text} (twice the running ones)"
    );
    (free < needed).then(|| Finding::note(RULE, message, hint))
}

/// Parses the free space of `df -P -k`, in bytes.
pub fn parse_df(output: &str) -> Option<u64> {
    let line = output.lines().nth(1)?;
    line.split_whitespace().nth(3)?.parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::finding::Severity;

    #[test]
    fn a_nearly_full_disk_refuses_new_images_and_a_small_one_warns() {
        const GIB: u64 = 1 << 30;
        let severity =
            |sizes: &[u64], free: u64| finding(sizes, free).map(|f| matches!(f.severity, Severity::Note));
        assert_eq!(severity(&[GIB, GIB], 4 * GIB), None);
        assert_eq!(severity(&[GIB, GIB], 4 * GIB - 1), Some(true));
        assert_eq!(severity(&[], LEAST), None, "a first deploy");
        assert_eq!(severity(&[], LEAST - 1), Some(false));
        assert_eq!(severity(&[u64::MAX, GIB], 4 * GIB), Some(true));
        let refused = finding(&[GIB], 5 << 20).unwrap();
        assert!(refused.is_refusal() && refused.message.contains("has 5 MiB free"), "{refused}");
    }

    #[test]
    fn free_space_is_parsed_as_df_prints_it() {
        let text = "Filesystem     1024-blocks     Used Available Capacity Mounted on\noverlay 263174212 100 80742128 16% /\n";
        assert_eq!(parse_df(text), Some(80_742_128 * 1024));
        assert_eq!([parse_df(""), parse_df("Filesystem\n"), parse_df("a\nb c d e")], [None; 3]);
    }
}
