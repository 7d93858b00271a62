//! Structure of the program, read from its source: imports point down, and no files import each other in a circle.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules of the program from top to bottom. A module imports only modules below it.
const FLOORS: [&str; 39] = [
    "main",
    "cli",
    "commands",
    "manual",
    "rollback",
    "up",
    "deploy",
    "engine",
    "rollout",
    "project_plan",
    "preflight",
    "plan",
    "observe",
    "request",
    "context",
    "configuration",
    "jobs",
    "targets",
    "observed",
    "swarm",
    "witness",
    "health",
    "mounted_files",
    "proxy",
    "release",
    "lock",
    "docker",
    "git",
    "process",
    "http",
    "relay",
    "report",
    "finding",
    "model",
    "plugin",
    "mask",
    "shell",
    "wait",
    "error",
];

/// Module of a file as its path, such as `["proxy", "haproxy"]`.
type Module = Vec<String>;

/// Imports of each module, without those of its tests.
fn imports() -> BTreeMap<Module, BTreeSet<Module>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let files: BTreeMap<Module, String> = source_files(&root)
        .into_iter()
        .map(|file| (module_of(file.strip_prefix(&root).unwrap()), std::fs::read_to_string(&file).unwrap()))
        .collect();
    let modules: BTreeSet<Module> = files.keys().cloned().collect();
    files
        .iter()
        .map(|(module, text)| {
            let of = paths(text).into_iter().filter_map(|path| resolve(module, &path, &modules));
            (module.clone(), of.filter(|other| other != module).collect())
        })
        .collect()
}

fn source_files(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        if path.is_dir() && name != "tests" {
            files.extend(source_files(&path));
        }
        let is_test =
            ["tests.rs", "properties.rs", "build.rs", "adversarial_tests.rs"].contains(&name.as_str());
        if name.ends_with(".rs") && !is_test {
            files.push(path);
        }
    }
    files
}

fn module_of(file: &Path) -> Module {
    file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect()
}

/// Paths that start with `crate::` or `super::`, a group such as `crate::{a, b}` as several.
fn paths(text: &str) -> Vec<Vec<String>> {
    let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let lines = code.lines().map(|line| line.split("//").next().unwrap_or_default());
    let code: String = lines.collect::<Vec<_>>().join("\n");
    let mut paths = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in code.match_indices(start) {
            let rest = &code[at..];
            let is_name = |c: char| c.is_alphanumeric() || c == '_' || c == ':';
            let end = rest.find(|c| !is_name(c)).unwrap_or(rest.len());
            let path: Vec<String> =
                rest[..end].split("::").filter(|s| !s.is_empty()).map(String::from).collect();
            let group = rest[end..].strip_prefix('{').and_then(|group| group.split_once('}'));
            for name in group.map_or("", |(names, _)| names).split(',') {
                let first = name.trim().split("::").next().unwrap_or_default();
                paths.push(path.iter().cloned().chain([first.to_string()]).collect());
            }
        }
    }
    paths
}

/// Module that a path names: its longest beginning that is a module.
fn resolve(from: &Module, path: &[String], modules: &BTreeSet<Module>) -> Option<Module> {
    let mut base: Module = if path[0] == "super" { from.clone() } else { Vec::new() };
    for part in path {
        match part.as_str() {
            "crate" => {}
            "super" => _ = base.pop(),
            name => base.push(name.into()),
        }
    }
    while !base.is_empty() && !modules.contains(&base) {
        base.pop();
    }
    Some(base).filter(|module| !module.is_empty())
}

fn floor(module: &Module) -> usize {
    let name = &module[0];
    FLOORS.iter().position(|floor| floor == name).unwrap_or_else(|| panic!("`{name}` has no floor in FLOORS"))
}

#[test]
fn imports_point_down() {
    let mut up = Vec::new();
    for (module, others) in imports() {
        let higher = others.iter().filter(|other| floor(other) < floor(&module));
        up.extend(higher.map(|other| format!("{} imports {}", module.join("::"), other.join("::"))));
    }
    assert!(up.is_empty(), "imports that point up:\n{}", up.join("\n"));
}

#[test]
fn no_files_import_each_other_in_a_circle() {
    let imports = imports();
    // A module and the folder of its parts are one thing: a part may use what its module holds.
    let is_own = |a: &Module, b: &Module| a.starts_with(b) || b.starts_with(a);
    let reached = |start: &Module| {
        let (mut reached, mut open) = (BTreeSet::new(), vec![start.clone()]);
        while let Some(module) = open.pop() {
            for next in imports.get(&module).into_iter().flatten().filter(|next| !is_own(&module, next)) {
                if reached.insert(next.clone()) {
                    open.push(next.clone());
                }
            }
        }
        reached
    };
    let in_circle = |module: &Module, next: &Module| {
        !is_own(module, next) && (reached(next).contains(module) || next == module)
    };
    let circles: Vec<String> = imports
        .iter()
        .flat_map(|(module, others)| others.iter().map(move |next| (module, next)))
        .filter(|(module, next)| in_circle(module, next))
        .map(|(module, next)| format!("{} imports {}", module.join("::"), next.join("::")))
        .collect();
    assert!(circles.is_empty(), "imports of a circle:\n{}", circles.join("\n"));
}

#[test]
fn a_path_and_a_group_name_their_modules() {
    let modules: BTreeSet<Module> =
        [vec!["a"], vec!["a", "b"], vec!["c"]].map(|m| m.into_iter().map(String::from).collect()).into();
    let from = |module: &[&str], text: &str| -> Vec<String> {
        let module: Module = module.iter().map(|part| part.to_string()).collect();
        let found = paths(text).into_iter().filter_map(|path| resolve(&module, &path, &modules));
        found.map(|module| module.join("::")).collect()
    };
    assert_eq!(from(&["c"], "use crate::a::b::{self, Thing};"), ["a::b", "a::b"]);
    assert_eq!(from(&["c"], "crate::a::Other // crate::c"), ["a"]);
    assert_eq!(from(&["a", "b"], "use super::Thing;"), ["a"]);
    assert_eq!(from(&["c"], "use crate::{a, c::d};"), ["a", "c"]);
    assert_eq!(from(&["c"], "#[cfg(test)]\nmod tests {\n    use crate::a;"), [""; 0]);
}
