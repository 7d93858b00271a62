//! Services of which two instances must not run at the same time. Their requests wait during a replacement.

use std::fmt;
use std::path::Path;

use serde_yaml::Value;

use super::{Order, Service, Update};

/// Reason why only one instance of a service may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SingleCause {
    /// The update has the order `stop-first`.
    Order,
    /// It writes to the volume or folder at this path.
    Volume(String),
    Device,
    Gpu,
}

impl fmt::Display for SingleCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            SingleCause::Order => f.write_str("its order is `stop-first`"),
            SingleCause::Volume(path) => write!(f, "it writes to {path}"),
            SingleCause::Device => f.write_str("it has a device"),
            SingleCause::Gpu => f.write_str("it reserves a GPU"),
        }
    }
}

impl Service {
    /// Reason why requests are held while the only instance is replaced; `None` if two may run side by side, and for
    /// what the user or the service rules out: no hold, a database server, and secrets that Compose copies at start.
    pub fn hold_cause(&self, update: &Update) -> Option<SingleCause> {
        if self.settings.hold.is_zero() || self.starts_by_compose || self.data_store().is_some() {
            return None;
        }
        match update.order {
            Some(Order::StopFirst) => Some(SingleCause::Order),
            Some(Order::StartFirst) => None,
            None => self.single_cause(),
        }
    }

    fn single_cause(&self) -> Option<SingleCause> {
        let volume = self.written_folders().next().map(|path| SingleCause::Volume(path.into()));
        let device = || (!self.devices.is_empty()).then_some(SingleCause::Device);
        volume.or_else(|| self.reserves_gpu().then_some(SingleCause::Gpu)).or_else(device)
    }

    /// Paths of the named volumes and host folders that it may write to. A single file is a setting or a socket. What
    /// another service mounts too is made for several containers, such as uploads, except for a database in a file, which
    /// a backup may read.
    fn written_folders(&self) -> impl Iterator<Item = &str> {
        let is_file = |source: &String| Path::new(source).is_file();
        let is_single = self.embedded_database().is_some();
        let is_own = move |source: &String| is_single || !self.common_sources.contains(source);
        let folders =
            self.shared().filter(move |m| m.source.as_ref().is_some_and(|s| !is_file(s) && is_own(s)));
        folders.map(|m| m.target.as_str())
    }

    fn reserves_gpu(&self) -> bool {
        let has_any = |value: &Value| value.as_sequence().is_some_and(|list| !list.is_empty());
        let reserved = &self.deploy.resources["reservations"]["devices"];
        has_any(reserved) || self.gpus.as_ref().is_some_and(|gpus| gpus.is_string() || has_any(gpus))
    }
}

#[cfg(test)]
mod tests {
    use super::super::{FlagLayers, Project};
    use super::*;

    fn cause(keys: &str) -> Option<SingleCause> {
        let yaml = format!("name: p\nservices: {{app: {{image: app, {keys}}}}}");
        let project = Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap();
        let service = &project.services["app"];
        service.hold_cause(&service.update)
    }

    const VOLUME: &str = "volumes: [{type: volume, source: v, target: /data}]";

    #[test]
    fn a_volume_a_folder_a_device_or_a_gpu_allows_one_instance() {
        let data = Some(SingleCause::Volume("/data".into()));
        assert_eq!(cause(""), None);
        assert_eq!(cause(VOLUME), data);
        assert_eq!(cause("volumes: [{type: bind, source: /, target: /data}]"), data);
        assert_eq!(cause("devices: [{source: /dev/dri, target: /dev/dri}]"), Some(SingleCause::Device));
        assert_eq!(cause("gpus: all"), Some(SingleCause::Gpu));
        let gpu = "deploy: {resources: {reservations: {devices: [{capabilities: [gpu]}]}}}";
        assert_eq!(cause(gpu), Some(SingleCause::Gpu));
    }

    #[test]
    fn a_socket_a_file_and_what_is_only_read_do_not() {
        let file = std::env::current_exe().unwrap();
        let mounts = [
            "{type: bind, source: /run/docker.sock, target: /run/docker.sock}".into(),
            format!("{{type: bind, source: {}, target: /settings}}", file.display()),
            "{type: bind, source: /, target: /data, read_only: true}".into(),
            "{type: volume, target: /cache}".into(),
            "{type: tmpfs, target: /tmp}".into(),
        ];
        for mount in mounts {
            assert_eq!(cause(&format!("volumes: [{mount}]")), None, "{mount}");
        }
    }

    #[test]
    fn a_volume_of_two_services_is_made_for_several_containers() {
        let hold_cause = |keys: &str| {
            let mount = |read_only: bool| {
                format!("volumes: [{{type: volume, source: v, target: /data, read_only: {read_only}}}]")
            };
            let (own, other) = (mount(false), mount(true));
            let yaml = format!("name: p\nservices: {{app: {{{own}, {keys}}}, other: {{{other}}}}}");
            let project = Project::read(&yaml, "compose.yaml", &FlagLayers::default()).unwrap();
            let service = &project.services["app"];
            service.hold_cause(&service.update)
        };
        assert_eq!(hold_cause("image: app"), None);
        assert!(hold_cause("environment: {DATABASE_URL: 'sqlite:///data/app.db'}").is_some());
    }

    #[test]
    fn an_order_decides_and_no_hold_or_a_database_server_rules_it_out() {
        let with = |keys: &str| cause(&format!("{VOLUME}, {keys}"));
        assert_eq!(with("deploy: {update_config: {order: start-first}}"), None);
        assert_eq!(cause("deploy: {update_config: {order: stop-first}}"), Some(SingleCause::Order));
        assert_eq!(with("x-zd: {hold: 0s}"), None);
        assert_eq!(cause("x-zd: {hold: 0s}, deploy: {update_config: {order: stop-first}}"), None);
        let postgres = "volumes: [{type: volume, source: v, target: /var/lib/postgresql/data}]";
        assert_eq!(cause(postgres), None);
        assert!(with("environment: {DATABASE_URL: 'sqlite:///data/app.db'}").is_some());
    }

    #[test]
    fn a_hold_lasts_30_seconds_unless_set() {
        let hold = |yaml: &str| {
            let project = Project::read(yaml, "compose.yaml", &FlagLayers::default());
            project.map(|p| p.services["app"].settings.hold.as_secs())
        };
        assert_eq!(hold("name: p\nservices: {app: {}}").unwrap(), 30);
        assert_eq!(hold("name: p\nservices: {app: {x-zd: {hold: 1m}}}\nx-zd: {hold: 5s}").unwrap(), 60);
        assert_eq!(hold("name: p\nservices: {app: {}}\nx-zd: {hold: 5s}").unwrap(), 5);
        assert!(hold("name: p\nservices: {app: {x-zd: {hold: 9000d}}}").is_err());
    }
}
