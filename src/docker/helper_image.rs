//! Helper image: this program as an image without a registry. Helper containers of it work beside a proxy.

use std::collections::BTreeSet;
use std::fmt;
use std::io;
use std::path::Path;
use std::time::Duration;

use anyhow::Result;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use tar::{EntryType, Header};

use super::api::labelled;
use super::{CommandResult, Docker};
use crate::process;

/// Repository of the helper images; the tag is a hash of the program.
const REPOSITORY: &str = "compose-zd/helper";

/// Label of a helper image with the hash of its program.
const LABEL: &str = "compose-zd.helper-image";

/// Program of a helper image, which is its entrypoint too.
pub(super) const HELPER_PROGRAM: &str = "/compose-zd";

/// Folder of the shared libraries in a helper image.
const LIBRARIES: &str = "lib";

/// Limit for the upload of a helper image, to an engine of the default timeout.
const IMPORT_LIMIT: Duration = Duration::from_secs(120);

/// Reason why an engine cannot run this program in a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NoHelper {
    /// The engine runs on another architecture, or its containers on another system.
    Platform(String),
    /// The program or one of its libraries cannot be read.
    Program(String),
}

impl fmt::Display for NoHelper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NoHelper::Platform(engine) => write!(
                f,
                "the engine runs containers of {engine}, and this compose-zd is for linux/{}",
                std::env::consts::ARCH
            ),
            NoHelper::Program(reason) => write!(f, "compose-zd cannot be made an image: {reason}"),
        }
    }
}

impl Docker {
    /// Name of the helper image on this engine, which is uploaded if it is missing. The entrypoint is this program, so
    /// a helper runs with the words `__helper …`.
    ///
    /// # Errors
    /// The engine fails. The inner error is the reason why the engine cannot run this program.
    pub fn helper_image(&self) -> Result<std::result::Result<String, NoHelper>> {
        let program = match self.helper_support()?.and_then(|()| Program::read()) {
            Ok(program) => program,
            Err(reason) => return Ok(Err(reason)),
        };
        let (hash, tag) = (program.hash(), program.tag());
        if self.image(&tag)?.is_none() {
            let entrypoint = format!("ENTRYPOINT [\"{HELPER_PROGRAM}\"]");
            let (libraries, label) =
                (format!("ENV LD_LIBRARY_PATH=/{LIBRARIES}"), format!("LABEL {LABEL}={hash}"));
            let changes =
                [entrypoint, libraries, label].into_iter().flat_map(|c| ["--change".to_string(), c]);
            let words: Vec<String> =
                ["import".to_string()].into_iter().chain(changes).chain(["-".into(), tag.clone()]).collect();
            let words: Vec<&str> = words.iter().map(String::as_str).collect();
            self.run_within(&words, Some(&program.archive()?), self.scaled(IMPORT_LIMIT))?;
        }
        Ok(Ok(tag))
    }

    /// As [`Docker::helper_image`], read and uploaded once; `None` if the engine fails or cannot run this program.
    pub fn prepared_helper_image(&self) -> Option<String> {
        let image = self.helper_image.get_or_init(|| self.helper_image().ok()?.ok());
        image.clone()
    }

    /// Checks that the engine can run this program in a container.
    ///
    /// # Errors
    /// The engine does not answer. The inner error is the reason why the engine cannot.
    pub fn helper_support(&self) -> Result<std::result::Result<(), NoHelper>> {
        let info = self.info()?;
        let is_same = info.os_type == "linux" && is_own_architecture(&info.architecture);
        let platform = format!("{}/{}", info.os_type, info.architecture);
        Ok(if is_same { Ok(()) } else { Err(NoHelper::Platform(platform)) })
    }

    /// Ids and names of the helper images. An image without a name counts by its id.
    pub fn helper_images(&self) -> Result<Vec<String>> {
        let images: Vec<HelperImage> = self.get("/images/json", &[("filters", &labelled(&[LABEL]))])?;
        let names = |image: HelperImage| match image.repo_tags.unwrap_or_default() {
            tags if tags.iter().all(|tag| tag.starts_with("<none>")) => vec![image.id],
            tags => tags,
        };
        Ok(images.into_iter().flat_map(names).collect())
    }

    /// Name of the helper image of this program, on this engine or not; `None` if the program cannot be read.
    pub fn own_helper_image(&self) -> Option<String> {
        Program::read().ok().map(|program| program.tag())
    }

    /// Removes a helper image, unless a helper runs.
    pub fn remove_helper_image(&self, name: &str) -> Result<CommandResult> {
        self.run(&["image", "rm", name])
    }
}

/// True for the architecture of this program. Docker names it as the kernel does, and Podman as Go does.
fn is_own_architecture(name: &str) -> bool {
    let own = std::env::consts::ARCH;
    let in_go = match own {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    };
    name.starts_with(own) || name == in_go
}

/// Image in a list.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperImage {
    id: String,
    repo_tags: Option<Vec<String>>,
}

/// This program, with the shared libraries that it needs in an image without any.
struct Program {
    /// Path in the image without the leading slash, and content.
    files: Vec<(String, Vec<u8>)>,
}

impl Program {
    fn read() -> std::result::Result<Program, NoHelper> {
        let program = read("/proc/self/exe")?;
        let Some(loader) = loader(&program) else {
            return Ok(Program { files: vec![(HELPER_PROGRAM[1..].into(), program)] });
        };
        let mut files = vec![(loader[1..].to_string(), read(&loader)?)];
        for path in process::own_libraries() {
            let name = Path::new(&path).file_name().unwrap_or_default().to_string_lossy();
            files.push((format!("{LIBRARIES}/{name}"), read(&path)?));
        }
        files.push((HELPER_PROGRAM[1..].into(), program));
        Ok(Program { files })
    }

    fn hash(&self) -> String {
        let mut hash = Sha256::new();
        self.files.iter().for_each(|(_, content)| hash.update(content));
        hash.finalize().iter().take(6).map(|byte| format!("{byte:02x}")).collect()
    }

    fn tag(&self) -> String {
        format!("{REPOSITORY}:{}", self.hash())
    }

    /// Tar archive of the files, which all users may read and run.
    fn archive(&self) -> io::Result<Vec<u8>> {
        let folders: BTreeSet<&str> =
            self.files.iter().filter_map(|(p, _)| Some(p.rsplit_once('/')?.0)).collect();
        let mut archive = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind, content: &[u8]| {
            let mut header = Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(0o755);
            header.set_size(content.len() as u64);
            archive.append_data(&mut header, path, content)
        };
        folders.iter().try_for_each(|folder| add(folder, EntryType::Directory, &[]))?;
        self.files.iter().try_for_each(|(path, content)| add(path, EntryType::Regular, content))?;
        archive.into_inner()
    }
}

fn read(path: &str) -> std::result::Result<Vec<u8>, NoHelper> {
    std::fs::read(path).map_err(|error| NoHelper::Program(format!("{path}: {error}")))
}

/// Path of the loader of a dynamic program (PT_INTERP of a 64-bit ELF file); `None` for a static one.
fn loader(program: &[u8]) -> Option<String> {
    let number = |at: usize, length: usize| {
        let bytes = program.get(at..at.checked_add(length)?)?;
        Some(bytes.iter().rev().fold(0usize, |number, byte| number << 8 | usize::from(*byte)))
    };
    let (table, size, count) = (number(32, 8)?, number(54, 2)?, number(56, 2)?);
    let mut headers = (0..count).filter_map(|n| table.checked_add(n * size));
    let header = headers.find(|at| number(*at, 4) == Some(3))?;
    let (at, length) = (number(header + 8, 8)?, number(header + 32, 8)?);
    let path = program.get(at..at.checked_add(length)?)?;
    String::from_utf8(path.to_vec()).ok().map(|path| path.trim_end_matches('\0').into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_has_every_file_and_folder_for_all_users() {
        let program =
            Program { files: vec![("lib/a".into(), vec![1; 513]), ("compose-zd".into(), vec![2; 512])] };
        let bytes = program.archive().unwrap();
        let mut archive = tar::Archive::new(&bytes[..]);
        let entry = |entry: io::Result<tar::Entry<'_, &[u8]>>| {
            let entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            (path, entry.header().mode().unwrap(), entry.size())
        };
        let entries: Vec<_> = archive.entries().unwrap().map(entry).collect();
        let expected = [("lib", 0), ("lib/a", 513), ("compose-zd", 512)];
        assert_eq!(entries, expected.map(|(path, size)| (path.to_string(), 0o755, size)));
        assert!(program.tag().starts_with("compose-zd/helper:") && program.hash().len() == 12);
    }

    #[test]
    fn a_dynamic_program_has_a_loader_and_a_static_or_broken_one_none() {
        let header = |kind: u8| {
            let mut elf = vec![0; 64 + 56];
            (elf[32], elf[54], elf[56], elf[64]) = (64, 56, 1, kind);
            (elf[64 + 8], elf[64 + 32]) = (120, 6);
            elf.extend(b"/lib/l\0");
            elf
        };
        assert_eq!(loader(&header(3)).as_deref(), Some("/lib/l"));
        assert_eq!(loader(&header(1)), None);
        assert_eq!(loader(&header(3)[..100]), None);
        assert_eq!(loader(&[0xff; 200]), None);
    }

    #[test]
    fn this_program_has_all_its_libraries() {
        let program = Program::read().unwrap();
        let libraries = process::own_libraries();
        let is_static = loader(&std::fs::read("/proc/self/exe").unwrap()).is_none();
        assert_eq!(program.files.len(), if is_static { 1 } else { 2 + libraries.len() });
        assert!(libraries.iter().all(|path| path.contains(".so")), "{libraries:?}");
    }

    #[test]
    fn an_architecture_has_the_kernels_name_or_that_of_go() {
        let names = [("x86_64", "amd64"), ("aarch64", "arm64")];
        for (kernel, go) in names {
            let is_own = kernel == std::env::consts::ARCH;
            assert_eq!((is_own_architecture(kernel), is_own_architecture(go)), (is_own, is_own), "{kernel}");
        }
        assert!(is_own_architecture(std::env::consts::ARCH) && !is_own_architecture("mips64"));
    }

    #[test]
    fn a_missing_helper_names_both_platforms() {
        let text = NoHelper::Platform("linux/riscv64".into()).to_string();
        assert!(text.contains("linux/riscv64") && text.contains(std::env::consts::ARCH), "{text}");
    }
}
