//! Files of a container that does not run, by the engine's archive of them.

use anyhow::Result;
use hyper::StatusCode;

use super::Docker;
use super::api::{ApiRequest, refused};

/// Size of a block in a tar archive.
const BLOCK: usize = 512;

/// Most symbolic links that are followed, as in Linux.
const MAX_LINKS: usize = 40;

/// File or folder of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerFile {
    File(String),
    /// Names of the files and folders in a folder.
    Folder(Vec<String>),
}

/// First entry of an archive.
#[derive(Debug, PartialEq, Eq)]
enum Archived {
    File(ContainerFile),
    Link(String),
}

impl Docker {
    /// File or folder at an absolute path of a stopped container, if it exists. The engine mounts the container's volumes
    /// for the archive, and creates the folder of a mount whose source is gone, as at the container's start.
    ///
    /// # Errors
    /// The engine does not answer, or refuses the request.
    pub fn file_of_stopped(&self, id: &str, path: &str) -> Result<Option<ContainerFile>> {
        let mut path = path.to_string();
        for _ in 0..MAX_LINKS {
            let request = ApiRequest::get(&format!("/containers/{id}/archive"), &[("path", &path)]);
            let response = self.send(&request)?;
            if response.status == StatusCode::NOT_FOUND {
                return Ok(None);
            }
            if !response.status.is_success() {
                return Err(refused(&request, &response).into());
            }
            match first_entry(&response.body) {
                Some(Archived::File(file)) => return Ok(Some(file)),
                Some(Archived::Link(target)) => path = link_target(&path, &target),
                None => return Ok(None),
            }
        }
        Ok(None)
    }
}

/// Path to which a symbolic link at `path` leads.
fn link_target(path: &str, target: &str) -> String {
    let folder = path.trim_end_matches('/').rsplit_once('/').map_or("", |(folder, _)| folder);
    if target.starts_with('/') { target.into() } else { format!("{folder}/{target}") }
}

/// First entry of a tar archive; `None` if it is no file, folder or link.
fn first_entry(archive: &[u8]) -> Option<Archived> {
    let mut headers = Headers(archive);
    let first = headers.next()?;
    match first.kind {
        b'0' | 0 => {
            Some(Archived::File(ContainerFile::File(String::from_utf8_lossy(first.content).into_owned())))
        }
        b'2' => Some(Archived::Link(first.link)),
        b'5' => {
            let root = format!("{}/", first.name.trim_end_matches('/'));
            let inside = headers.filter_map(|entry| {
                let name = entry.name.strip_prefix(&root)?.trim_end_matches('/').to_string();
                (!name.is_empty() && !name.contains('/')).then_some(name)
            });
            Some(Archived::File(ContainerFile::Folder(inside.collect())))
        }
        _ => None,
    }
}

/// Entry of a tar archive.
struct Entry<'a> {
    name: String,
    kind: u8,
    link: String,
    content: &'a [u8],
}

/// Entries of a tar archive, without the records that only describe the next entry.
struct Headers<'a>(&'a [u8]);

impl<'a> Iterator for Headers<'a> {
    type Item = Entry<'a>;

    fn next(&mut self) -> Option<Entry<'a>> {
        let mut long_name = None;
        loop {
            let header = self.0.get(..BLOCK).filter(|header| header[0] != 0)?;
            let text = |at: usize, length: usize| {
                let field = &header[at..at + length];
                let end = field.iter().position(|byte| *byte == 0).unwrap_or(length);
                String::from_utf8_lossy(&field[..end]).into_owned()
            };
            let size = usize::from_str_radix(text(124, 12).trim(), 8).ok()?;
            let content = self.0.get(BLOCK..BLOCK.checked_add(size)?)?;
            self.0 = self.0.get(BLOCK + size.next_multiple_of(BLOCK)..).unwrap_or_default();
            let name = match text(345, 155) {
                prefix if prefix.is_empty() => text(0, 100),
                prefix => format!("{prefix}/{}", text(0, 100)),
            };
            match header[156] {
                b'x' => long_name = pax_path(content),
                b'g' => {}
                kind => {
                    let name = long_name.unwrap_or(name);
                    return Some(Entry { name, kind, link: text(157, 100), content });
                }
            }
        }
    }
}

/// Path in a pax record: lines such as `20 path=conf.d/a.conf`.
fn pax_path(record: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(record);
    let path = text.lines().find_map(|line| line.split_once(' ')?.1.strip_prefix("path="));
    path.map(String::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(name: &str, kind: u8, link: &str, content: &str) -> Vec<u8> {
        let mut all = vec![0; BLOCK];
        let mut put = |at: usize, text: &str| all[at..at + text.len()].copy_from_slice(text.as_bytes());
        put(0, name);
        put(124, &format!("{:011o}\0", content.len()));
        put(157, link);
        all[156] = kind;
        all.extend(content.as_bytes());
        all.resize(all.len().next_multiple_of(BLOCK), 0);
        all
    }

    fn first(entries: &[Vec<u8>]) -> Option<Archived> {
        first_entry(&[&entries.concat()[..], &[0; 2 * BLOCK]].concat())
    }

    #[test]
    fn an_archive_has_a_file_the_names_in_a_folder_or_a_link() {
        let file = |text: &str| Some(Archived::File(ContainerFile::File(text.into())));
        let long = "d/".to_string() + &"n".repeat(120);
        assert_eq!(first(&[entry("a.conf", b'0', "", "a b;\n")]), file("a b;\n"));
        assert_eq!(first(&[entry("a.conf", b'0', "", "")]), file(""));
        assert_eq!(first(&[entry("a", b'2', "../b", "")]), Some(Archived::Link("../b".into())));
        let folder = [
            entry("d/", b'5', "", ""),
            entry("d/a", b'0', "", &"x".repeat(1000)),
            entry("d/sub/", b'5', "", ""),
            entry("d/sub/c", b'0', "", "c"),
            entry("header", b'x', "", &format!("{} path={long}\n", long.len() + 10)),
            entry("d/nnn", b'0', "", "n"),
            entry("d/z", b'2', "a", ""),
        ];
        let names = vec!["a".into(), "sub".into(), "n".repeat(120), "z".into()];
        assert_eq!(first(&folder), Some(Archived::File(ContainerFile::Folder(names))));
    }

    #[test]
    fn a_cut_or_strange_archive_has_no_file() {
        let whole = entry("a", b'0', "", &"x".repeat(600));
        for archive in [&[][..], &[1; 100], &whole[..BLOCK + 100], &[0; 2 * BLOCK], &[b'9'; BLOCK]] {
            assert_eq!(first_entry(archive), None);
        }
        assert_eq!(first(&[entry("pipe", b'6', "", "")]), None);
    }

    #[test]
    fn a_link_leads_from_its_own_folder_or_from_the_root() {
        assert_eq!(link_target("/etc/nginx/a/b", "../c"), "/etc/nginx/a/../c");
        assert_eq!(link_target("/etc/nginx", "/x"), "/x");
        assert_eq!(link_target("/nginx", "x"), "/x");
    }
}
