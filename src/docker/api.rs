//! Engine API requests in place of some docker commands. Builds the requests that the client sends, and prints the
//! responses as the client prints them; without I/O. The client itself runs every other command, and also a command
//! whose response this file does not know.
//!
//! All these commands can be repeated: they only read, or create or remove one name atomically.

use reqwest::{Method, Url};
use serde_json::{Value, json};

use super::CommandResult;
use super::containers::{INSPECT, LIST_IDS};
use super::endpoint::IDENTITY;
use super::images::familiar_name;
use super::lock_resource::LOCK_LABEL;
use super::swarm::{IS_MANAGER, NAMESPACE, NODES};

/// Engine API form of a docker command.
#[derive(Debug, PartialEq)]
pub struct ApiQuery {
    pub requests: Vec<ApiRequest>,
    reply_format: ReplyFormat,
}

/// Message of an engine whose API does not have the path.
const UNKNOWN_PATH: &str = "page not found";

/// Request of the Engine API; the path is without its version.
#[derive(Debug, PartialEq)]
pub struct ApiRequest {
    pub method: Method,
    /// Includes the query string.
    pub path: String,
    pub body: Option<Value>,
}

/// Form in which the client prints the response.
#[derive(Debug, Clone, Copy, PartialEq)]
enum ReplyFormat {
    /// The objects as JSON.
    Objects,
    /// Value of this key in each object of a list, one per line.
    Lines(&'static str),
    /// Names of containers.
    Names,
    /// Tags of images.
    Tags,
    /// Nodes of a Swarm, in the form of [`NODES`].
    Nodes,
    /// In the form of [`IDENTITY`].
    Identity,
    Nothing,
}

/// Response of the engine to one request.
#[derive(Debug)]
pub struct ApiResponse {
    pub status: u16,
    pub body: Vec<u8>,
}

/// Requests of a command, given its words after `docker`; `None` if the client has to run the command.
pub fn query_for(words: &[&str]) -> Option<ApiQuery> {
    let single = |request, form| Some(ApiQuery { requests: vec![request], reply_format: form });
    if let Some(filters) = words.strip_prefix(&LIST_IDS[..]) {
        return single(
            list_request("containers", "label", &filter_values("label", filters)?),
            ReplyFormat::Lines("Id"),
        );
    }
    if words == IS_MANAGER {
        return single(get("/nodes".into()), ReplyFormat::Lines("ID"));
    }
    if words == IDENTITY {
        return single(get("/info".into()), ReplyFormat::Identity);
    }
    if words == NODES {
        return single(get("/nodes".into()), ReplyFormat::Nodes);
    }
    match words {
        ["ps", "--all", filters @ .., "--format", "{{.Names}}"] => {
            single(list_request("containers", "label", &filter_values("label", filters)?), ReplyFormat::Names)
        }
        ["image", "ls", "--format", "{{.Repository}}:{{.Tag}}", filters @ ..] => single(
            list_request("images", "reference", &filter_values("reference", filters)?),
            ReplyFormat::Tags,
        ),
        ["service", "ls", "--quiet", filters @ ..] => single(
            filtered_get("/services", &[], "label", &filter_values("label", filters)?),
            ReplyFormat::Lines("ID"),
        ),
        ["node", "inspect", ids @ ..] => {
            one_per_name(ids, |id| get(format!("/nodes/{id}")), ReplyFormat::Objects)
        }
        ["service", "inspect", ids @ ..] => {
            one_per_name(ids, |id| get(format!("/services/{id}")), ReplyFormat::Objects)
        }
        ["stack", "ps", "--quiet", "--no-trunc", stack] => {
            let label = format!("{NAMESPACE}={stack}");
            single(filtered_get("/tasks", &[], "label", &[&label]), ReplyFormat::Lines("ID"))
        }
        ["inspect", "--type", "task", ids @ ..] => {
            one_per_name(ids, |id| get(format!("/tasks/{id}")), ReplyFormat::Objects)
        }
        ["volume", "create", "--label", label, name] => {
            single(create_volume(label, name)?, ReplyFormat::Nothing)
        }
        ["volume", "rm", names @ ..] => {
            one_per_name(names, |name| remove(format!("/volumes/{name}")), ReplyFormat::Nothing)
        }
        ["volume", "inspect", names @ ..] => {
            one_per_name(names, |name| get(format!("/volumes/{name}")), ReplyFormat::Objects)
        }
        ["image", "inspect", names @ ..] => {
            one_per_name(names, |name| get(format!("/images/{name}/json")), ReplyFormat::Objects)
        }
        [a, b, names @ ..] if [*a, *b] == INSPECT => {
            one_per_name(names, |name| get(format!("/containers/{name}/json")), ReplyFormat::Objects)
        }
        _ => None,
    }
}

/// Query with one request per name.
fn one_per_name(names: &[&str], request: impl Fn(&str) -> ApiRequest, form: ReplyFormat) -> Option<ApiQuery> {
    let requests = names.iter().map(|name| is_plain(name).then(|| request(name)));
    Some(ApiQuery { requests: requests.collect::<Option<_>>()?, reply_format: form })
}

fn get(path: String) -> ApiRequest {
    ApiRequest { method: Method::GET, path, body: None }
}

fn remove(path: String) -> ApiRequest {
    ApiRequest { method: Method::DELETE, path, body: None }
}

/// Request to create the volume of a lock; `None` for other volumes, which the client creates.
fn create_volume(label: &str, name: &str) -> Option<ApiRequest> {
    let text = label.strip_prefix(LOCK_LABEL)?.strip_prefix('=')?;
    let body = json!({ "Name": name, "Labels": { LOCK_LABEL: text } });
    Some(ApiRequest { method: Method::POST, path: "/volumes/create".into(), body: Some(body) })
}

/// Values of `--filter KEY=…`; `None` for any other flag or key.
fn filter_values<'w>(key: &str, words: &[&'w str]) -> Option<Vec<&'w str>> {
    let (pairs, []) = words.as_chunks::<2>() else { return None };
    let value = |text: &'w str| text.strip_prefix(key)?.strip_prefix('=');
    pairs.iter().map(|[flag, text]| value(text).filter(|_| *flag == "--filter")).collect()
}

/// Request for a list of images, or of all containers, also stopped ones.
fn list_request(noun: &str, key: &str, values: &[&str]) -> ApiRequest {
    let all: &[_] = if noun == "containers" { &[("all", "1")] } else { &[] };
    filtered_get(&format!("/{noun}/json"), all, key, values)
}

/// GET request with a query string and a filter.
fn filtered_get(path: &str, pairs: &[(&str, &str)], key: &str, values: &[&str]) -> ApiRequest {
    let mut url = Url::parse(&format!("http://engine{path}")).expect("an address");
    pairs.iter().for_each(|(name, value)| _ = url.query_pairs_mut().append_pair(name, value));
    if !values.is_empty() {
        url.query_pairs_mut().append_pair("filters", &json!({ key: values }).to_string());
    }
    get(format!("{}?{}", url.path(), url.query().unwrap_or_default()))
}

/// API path that streams events of the containers with a label, from now on.
pub fn events_path(actions: &[&str], label: &str) -> String {
    let filters = json!({ "event": actions, "label": [label], "type": ["container"] }).to_string();
    filtered_get("/events", &[("filters", &filters)], "", &[]).path
}

/// True for a name that needs no escaping in a path; the client handles all others.
fn is_plain(name: &str) -> bool {
    let is_allowed = |c: char| c.is_ascii_alphanumeric() || "._-:@/".contains(c);
    let is_named = |segment: &str| !segment.trim_matches('.').is_empty();
    let is_flag = name.starts_with('-');
    !is_flag && name.chars().all(is_allowed) && name.split('/').all(is_named)
}

impl ApiQuery {
    /// Output that the client prints for these responses; `None` if the client has to run the command itself.
    pub fn client_output(&self, responses: &[ApiResponse]) -> Option<CommandResult> {
        let (mut stdout, mut stderr) = (Vec::new(), String::new());
        for ApiResponse { status, body } in responses {
            match status {
                200 | 201 => stdout.push(serde_json::from_slice::<Value>(body).ok()?),
                204 => {}
                // The object does not exist, or the engine manages no Swarm. An unknown path is a 404, too: then the
                // client has to run the command.
                404 | 503 if message(body)? != UNKNOWN_PATH => {
                    stderr.push_str(&format!("Error response from daemon: {}\n", message(body)?))
                }
                _ => return None,
            }
        }
        let code = Some((!stderr.is_empty()).into());
        Some(CommandResult { code, stdout: self.reply_format.print(stdout)?, stderr })
    }
}

impl ReplyFormat {
    fn print(self, objects: Vec<Value>) -> Option<String> {
        let lines = |of: fn(&Value, &str) -> Option<String>, key: &str| -> Option<String> {
            let lists: Option<Vec<&Vec<Value>>> = objects.iter().map(Value::as_array).collect();
            lists?.into_iter().flatten().map(|object| of(object, key)).collect()
        };
        match self {
            ReplyFormat::Nothing => Some(String::new()),
            ReplyFormat::Lines(key) => lines(value_line, key),
            ReplyFormat::Names => lines(name_line, "Names"),
            ReplyFormat::Tags => lines(tag_lines, "RepoTags"),
            ReplyFormat::Nodes => lines(node_line, "Description"),
            ReplyFormat::Identity => {
                let text = |key: &str| objects.first()?.get(key)?.as_str();
                Some(format!("{}/{}\n", text("ID")?, text("Name")?))
            }
            ReplyFormat::Objects => Some(Value::Array(objects).to_string()),
        }
    }
}

fn message(body: &[u8]) -> Option<String> {
    Some(serde_json::from_slice::<Value>(body).ok()?.get("message")?.as_str()?.into())
}

fn value_line(object: &Value, key: &str) -> Option<String> {
    Some(format!("{}\n", object.get(key)?.as_str()?))
}

/// Name of a container. A container has one name, and further ones (`/other/alias`) by links from other containers.
fn name_line(object: &Value, key: &str) -> Option<String> {
    let names = object.get(key)?.as_array()?.iter().filter_map(|name| name.as_str()?.strip_prefix('/'));
    names.filter(|name| !name.contains('/')).map(|name| Some(format!("{name}\n"))).next()?
}

/// Tags of an image, which may have none.
fn tag_lines(object: &Value, key: &str) -> Option<String> {
    let tags = object.get(key)?.as_array()?;
    tags.iter().map(|tag| Some(format!("{}\n", familiar_name(tag.as_str()?)))).collect()
}

/// Node in the form of [`NODES`].
fn node_line(object: &Value, key: &str) -> Option<String> {
    let (id, name) = (object.get("ID")?.as_str()?, object.get(key)?.get("Hostname")?.as_str()?);
    Some(format!("{id}={name}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn requests(words: &str) -> Option<Vec<String>> {
        let query = query_for(&words.split(' ').collect::<Vec<_>>())?;
        Some(query.requests.iter().map(|r| format!("{} {}", r.method, r.path)).collect())
    }

    fn response(status: u16, body: &str) -> ApiResponse {
        ApiResponse { status, body: body.into() }
    }

    fn printed(words: &str, answers: &[ApiResponse]) -> Option<(i32, String, String)> {
        let result =
            query_for(&words.split(' ').collect::<Vec<_>>()).expect("a query").client_output(answers)?;
        Some((result.code?, result.stdout, result.stderr))
    }

    const CONTAINERS: &str = "ps --all --quiet --no-trunc";

    #[test]
    fn a_command_sends_the_same_requests_as_the_client() {
        let label = "filters=%7B%22label%22%3A%5B%22a%3Db%22%2C%22c%22%5D%7D";
        let reference = "filters=%7B%22reference%22%3A%5B%22a%2Fb%22%5D%7D";
        for (words, expected) in [
            (CONTAINERS, vec!["GET /containers/json?all=1".to_string()]),
            (
                "ps --all --quiet --no-trunc --filter label=a=b --filter label=c",
                vec![format!("GET /containers/json?all=1&{label}")],
            ),
            (
                "ps --all --filter label=a=b --filter label=c --format {{.Names}}",
                vec![format!("GET /containers/json?all=1&{label}")],
            ),
            (
                "image ls --format {{.Repository}}:{{.Tag}} --filter reference=a/b",
                vec![format!("GET /images/json?{reference}")],
            ),
            ("info --format {{.ID}}/{{.Name}}", vec!["GET /info".into()]),
            ("container inspect a b", vec!["GET /containers/a/json".into(), "GET /containers/b/json".into()]),
            ("image inspect reg:5000/app:1", vec!["GET /images/reg:5000/app:1/json".into()]),
            ("volume inspect compose-zd.p.lock", vec!["GET /volumes/compose-zd.p.lock".into()]),
            ("volume create --label compose-zd.lock=me p.lock", vec!["POST /volumes/create".into()]),
            ("volume rm a b", vec!["DELETE /volumes/a".into(), "DELETE /volumes/b".into()]),
            ("node ls --quiet", vec!["GET /nodes".into()]),
            ("node ls --format {{.ID}}={{.Hostname}}", vec!["GET /nodes".into()]),
            (
                "service ls --quiet --filter label=a=b --filter label=c",
                vec![format!("GET /services?{label}")],
            ),
            ("node inspect a", vec!["GET /nodes/a".into()]),
            ("service inspect a b", vec!["GET /services/a".into(), "GET /services/b".into()]),
            (
                "stack ps --quiet --no-trunc demo",
                vec![
                    "GET /tasks?filters=%7B%22label%22%3A%5B%22com.docker.stack.namespace%3Ddemo%22%5D%7D"
                        .into(),
                ],
            ),
            ("inspect --type task a", vec!["GET /tasks/a".into()]),
        ] {
            assert_eq!(requests(words).unwrap(), expected, "{words}");
        }
    }

    #[test]
    fn a_lock_keeps_the_text_of_its_owner_unchanged() {
        let text = r#"{"token": "a=b", "by": "\u{1f600}"}"#;
        let label = format!("{LOCK_LABEL}={text}");
        let query = query_for(&["volume", "create", "--label", &label, "p.lock"]).unwrap();
        let expected = json!({"Name": "p.lock", "Labels": {"compose-zd.lock": text}});
        assert_eq!(query.requests[0].body, Some(expected));
    }

    #[test]
    fn other_commands_are_left_to_the_client() {
        for words in [
            "start a",
            "stop a",
            "rm a",
            "volume create a",
            "volume create --label other=me a",
            "volume rm --force a",
            "exec a sh",
            "compose config",
            "ps --all",
            "ps --all --format {{.ID}}",
            "ps --all --quiet --no-trunc --filter name=a",
            "ps --all --quiet --no-trunc --filter",
            "ps --all --quiet --no-trunc --last 1",
            "image inspect a?b=c",
            "service inspect --pretty a",
            "service ls --quiet --filter name=a",
            "stack ps --quiet --no-trunc demo --filter name=a",
            "inspect --type container a",
            "image inspect a/../../containers/json",
            "container inspect a  b",
        ] {
            assert_eq!(requests(words), None, "{words}");
        }
    }

    #[test]
    fn responses_are_printed_as_the_client_prints_them() {
        let all = |text: &str| Some((0, text.to_string(), String::new()));
        let list =
            response(200, r#"[{"Id": "a", "Names": ["/x/alias", "/one"]}, {"Id": "b", "Names": ["/two"]}]"#);
        assert_eq!(printed(CONTAINERS, &[list]), all("a\nb\n"));
        let list = response(200, r#"[{"Names": ["/x/alias", "/one"]}, {"Names": ["/two"]}]"#);
        assert_eq!(printed("ps --all --format {{.Names}}", &[list]), all("one\ntwo\n"));
        let list = response(200, r#"[{"RepoTags": ["a:1", "a:2"]}, {"RepoTags": []}]"#);
        assert_eq!(printed("image ls --format {{.Repository}}:{{.Tag}}", &[list]), all("a:1\na:2\n"));
        let podman =
            response(200, r#"[{"RepoTags": ["docker.io/a/b:1", "docker.io/library/c:1", "localhost/d:1"]}]"#);
        let output = printed("image ls --format {{.Repository}}:{{.Tag}}", &[podman]);
        assert_eq!(output, all("a/b:1\nc:1\nlocalhost/d:1\n"));
        let list = response(200, r#"[{"ID": "a", "Description": {"Hostname": "one"}, "Spec": {}}]"#);
        assert_eq!(printed("node ls --format {{.ID}}={{.Hostname}}", &[list]), all("a=one\n"));
        assert_eq!(printed("volume rm a", &[response(204, "")]), all(""));
        assert_eq!(printed("volume create --label compose-zd.lock=me a", &[response(201, "{}")]), all(""));
    }

    #[test]
    fn a_missing_object_is_reported_beside_the_others() {
        let missing = response(404, r#"{"message": "No such container: b"}"#);
        let output = printed("container inspect a b", &[response(200, r#"{"Id": "a"}"#), missing]).unwrap();
        let error = "Error response from daemon: No such container: b\n";
        assert_eq!(output, (1, r#"[{"Id":"a"}]"#.into(), error.into()));
    }

    #[test]
    fn unknown_responses_are_left_to_the_client() {
        for (status, body) in [
            (400, r#"{"message": "client version 1.50 is too new"}"#),
            (403, r#"{"message": "denied"}"#),
            (409, r#"{"message": "in use"}"#),
            (500, r#"{"message": "server error"}"#),
            (404, "page not found"),
            (404, r#"{"message": "page not found"}"#),
            (200, "{"),
            (200, "{}"),
            (200, r#"[{"ID": "a"}]"#),
        ] {
            assert_eq!(printed(CONTAINERS, &[response(status, body)]), None, "{status} {body}");
        }
    }
}
