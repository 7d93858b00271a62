//! Files of a container that does not run, by the engine's archive of them.

use std::io::{self, Read};

use anyhow::Result;
use hyper::StatusCode;
use tar::{Archive, Entry, EntryType};

use super::Docker;
use super::api::{ApiRequest, refused};

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

/// First entry of a tar archive; `None` if it is no file, folder or link, or incomplete.
fn first_entry(archive: &[u8]) -> Option<Archived> {
    let mut archive = Archive::new(archive);
    let mut entries = archive.entries().ok()?;
    let mut first = entries.next()?.ok()?;
    match first.header().entry_type() {
        EntryType::Regular => {
            let mut content = Vec::new();
            first.read_to_end(&mut content).ok()?;
            let is_whole = content.len() as u64 == first.size();
            let text = || ContainerFile::File(String::from_utf8_lossy(&content).into_owned());
            is_whole.then(text).map(Archived::File)
        }
        EntryType::Symlink => Some(Archived::Link(first.link_name().ok()??.to_string_lossy().into_owned())),
        EntryType::Directory => {
            let root = first.path().ok()?.into_owned();
            let name_inside = |entry: io::Result<Entry<'_, &[u8]>>| {
                let entry = entry.ok()?;
                let path = entry.path().ok()?;
                let name = path.strip_prefix(&root).ok()?;
                (name.components().count() == 1).then(|| name.to_string_lossy().into_owned())
            };
            Some(Archived::File(ContainerFile::Folder(entries.filter_map(name_inside).collect())))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Archive of these entries: a name, a kind, and the content or the target of a link.
    fn archive(entries: &[(&str, EntryType, &str)]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, text) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            if *kind == EntryType::Symlink {
                header.set_size(0);
                builder.append_link(&mut header, name, text).unwrap();
            } else {
                header.set_size(text.len() as u64);
                builder.append_data(&mut header, name, text.as_bytes()).unwrap();
            }
        }
        builder.into_inner().unwrap()
    }

    #[test]
    fn an_archive_has_a_file_the_names_in_a_folder_or_a_link() {
        use EntryType::{Directory, Regular, Symlink};
        let first = |entries: &[(&str, EntryType, &str)]| first_entry(&archive(entries)).unwrap();
        let file = |text: &str| Archived::File(ContainerFile::File(text.into()));
        assert_eq!(first(&[("a.conf", Regular, "a b;\n")]), file("a b;\n"));
        assert_eq!(first(&[("a.conf", Regular, "")]), file(""));
        assert_eq!(first(&[("a", Symlink, "../b")]), Archived::Link("../b".into()));
        let (content, long) = ("x".repeat(1000), "n".repeat(120));
        let folder = [
            ("d/", Directory, ""),
            ("d/a", Regular, content.as_str()),
            ("d/sub/", Directory, ""),
            ("d/sub/c", Regular, "c"),
            (&format!("d/{long}"), Regular, "n"),
            ("d/z", Symlink, "a"),
        ];
        let names = vec!["a".into(), "sub".into(), long.clone(), "z".into()];
        assert_eq!(first(&folder), Archived::File(ContainerFile::Folder(names)));
    }

    #[test]
    fn a_cut_or_strange_archive_has_no_file() {
        let whole = archive(&[("a", EntryType::Regular, &"x".repeat(600))]);
        for archive in [&[][..], &[1; 100], &whole[..512 + 100], &[0; 1024], &[b'9'; 512]] {
            assert_eq!(first_entry(archive), None);
        }
        assert_eq!(first_entry(&archive(&[("pipe", EntryType::Fifo, "")])), None);
    }

    #[test]
    fn a_link_leads_from_its_own_folder_or_from_the_root() {
        assert_eq!(link_target("/etc/nginx/a/b", "../c"), "/etc/nginx/a/../c");
        assert_eq!(link_target("/etc/nginx", "/x"), "/x");
        assert_eq!(link_target("/nginx", "x"), "/x");
    }
}
