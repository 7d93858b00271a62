//! Names of images and keepers: legal, exact, and unique to one service of one project.

use std::collections::BTreeMap;

use super::super::tests::{history, service_release};
use super::*;

#[test]
fn a_tag_names_project_service_and_release() {
    let table = [
        ("shop", "app", "compose-zd/shop-app:r7"),
        ("shop", "eu-web", "compose-zd/shop-eu-web:r7"),
        ("shop-eu", "web", "compose-zd/shop-eu--web:r7"),
        ("shop", "app.v2", "compose-zd/shop-app.v2:r7"),
        ("my_shop", "app__a", "compose-zd/my_shop-app__a:r7"),
    ];
    for (project, service, tag) in table {
        let owner = ImageOwner { project, history: "1a2b3c4d" };
        assert_eq!(owner.tag_of(service, 7), format!("{tag}-1a2b3c4d"));
    }
    let owner = ImageOwner { project: "shop", history: "1a2b3c4d" };
    assert_eq!(owner.keeper_of("app", 7), "compose-zd-keep-shop-app-r7-1a2b3c4d");
}

#[test]
fn an_illegal_name_is_made_legal_and_unique() {
    assert_eq!(old_tag_of("shop", "App", 1), "compose-zd/shop-app-89213611:r1");
    let others =
        ["APP", "app..a", "app___a", "app_", "_app", "app-", "-app", "..", "a._b", "a--b", &"a".repeat(300)];
    for service in others {
        let component = name_component("shop", service);
        assert!(is_legal(&component) && component.starts_with("shop-"), "{service}: {component}");
        assert!(component.len() <= MAX_COMPONENT);
    }
}

#[test]
fn no_two_services_share_a_name() {
    let projects = ["a", "a-b", "a-b-c", "a--b", "a_", "a-", "a_b", "a-b_"];
    let services =
        ["a", "b", "c", "b-c", "-b", "--c", "b--c", "A", "B-c", "_", ".", "b.c", "b_c", "b__c", "c-"];
    let mut names = BTreeMap::new();
    for (project, service) in projects.iter().flat_map(|p| services.map(|s| (p, s))) {
        let component = name_component(project, service);
        assert!(is_legal(&component), "{component}");
        let other = names.insert(component.clone(), (project, service));
        assert_eq!(other, None, "{project} {service}: {component}");
    }
}

#[test]
fn the_hash_is_that_of_fnv_1a() {
    // From the test vectors of draft-eastlake-fnv.
    assert_eq!([fnv1a(""), fnv1a("a"), fnv1a("foobar")], [0x811c_9dc5, 0xe40c_292c, 0xbf9c_f968]);
}

#[test]
fn only_our_own_tags_are_removed() {
    let ours = BTreeSet::from([repository("shop", "app")]);
    assert!(is_ours("compose-zd/shop-app:r7", &ours));
    let others =
        ["latest", "r", "rc1", "r07", "r-1", "r+1", "r7a"].map(|tag| format!("compose-zd/shop-app:{tag}"));
    for tag in others {
        assert!(!is_ours(&tag, &ours), "{tag}");
    }
    for tag in
        ["compose-zd/shop-app-eu:r7", "far/compose-zd/shop-app:r7", "compose-zd/shop-app", "<none>:<none>"]
    {
        assert!(!is_ours(tag, &ours), "{tag}");
    }
}

#[test]
fn a_name_of_another_history_of_the_same_project_is_not_ours() {
    let owner = ImageOwner { project: "shop", history: "1a2b3c4d" };
    assert_eq!(owner.without_history(&owner.tag_of("app", 7)), Some("compose-zd/shop-app:r7"));
    let other = ImageOwner { history: "5e6f7a8b", ..owner };
    for name in [other.tag_of("app", 7), other.keeper_of("app", 7), old_tag_of("shop", "app", 7)] {
        assert_eq!(owner.without_history(&name), None, "{name}");
    }
}

#[test]
fn an_image_in_use_or_a_missing_one_is_no_warning() {
    let failed =
        |stderr: &str| CommandResult { code: Some(1), stderr: stderr.into(), ..CommandResult::default() };
    let used = "Error response from daemon: conflict: unable to remove repository reference \"a:r1\" (must force) - \
                container 1 is using its referenced image 2";
    assert!(check_removed("a:r1", &failed(used)).is_ok());
    assert!(check_removed("a:r1", &failed("Error response from daemon: No such image: a:r1")).is_ok());
    assert!(check_removed("a:r1", &failed("no space")).is_err());
}

#[test]
fn a_missing_image_is_named_with_its_release() {
    let built = gone_error("app", &service_release("a", 7)).to_string();
    assert!(
        built.starts_with("`app`: the image `app:latest` of release 7 is gone from this engine"),
        "{built}"
    );
    assert!(built.contains("sha256:a") && built.contains("it was built here"), "{built}");
    let pulled = ServiceRelease { digests: vec!["app@sha256:d".into()], ..service_release("a", 7) };
    assert!(gone_error("app", &pulled).to_string().contains("log in to its registry"));
}

/// The third deploy went back to the image of the first.
#[test]
fn only_images_that_no_kept_release_has_are_older() {
    let history = history("a b a d e");
    let older_than = |keep: usize| -> Vec<String> {
        let retained = history.retention(keep);
        older(&history, &retained).into_iter().map(|(name, id)| format!("{name} {id}")).collect()
    };
    assert_eq!(older_than(3), ["app:latest sha256:b"]);
    assert_eq!(older_than(2), ["app:latest sha256:a", "app:latest sha256:b"]);
    assert!(older_than(5).is_empty());
}
