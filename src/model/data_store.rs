//! Databases, of which two instances must not write to the same data.

use super::Service;

const BY_IMAGE: [(&str, &str); 13] = [
    ("postgres", "PostgreSQL"),
    ("postgis", "PostgreSQL"),
    ("timescaledb", "PostgreSQL"),
    ("mysql", "MySQL"),
    ("mariadb", "MariaDB"),
    ("mongo", "MongoDB"),
    ("redis", "Redis"),
    ("valkey", "Valkey"),
    ("influxdb", "InfluxDB"),
    ("elasticsearch", "Elasticsearch"),
    ("opensearch", "OpenSearch"),
    ("rabbitmq", "RabbitMQ"),
    ("clickhouse-server", "ClickHouse"),
];

const BY_PATH: [(&str, &str); 4] = [
    ("/var/lib/postgresql", "PostgreSQL"),
    ("/var/lib/mysql", "MySQL"),
    ("/data/db", "MongoDB"),
    ("sqlite", "SQLite"),
];

impl Service {
    /// The database of the service, by its image, its paths or its environment.
    pub fn data_store(&self) -> Option<&'static str> {
        let image = self.image.rsplit('/').next()?.split([':', '@']).next()?;
        let from_image = BY_IMAGE.iter().find(|(name, _)| *name == image).map(|(_, kind)| *kind);
        let in_path = |part: &str| self.shared_paths().iter().any(|p| p.contains(part));
        let from_path = || BY_PATH.iter().find(|(part, _)| in_path(part)).map(|(_, kind)| *kind);
        let is_file = |value: &String| {
            let value = value.to_lowercase();
            value.starts_with("sqlite:") || value.ends_with(".sqlite3") || value.ends_with(".sqlite")
        };
        let sqlite = || self.environment.values().any(is_file).then_some("SQLite");
        from_image.or_else(from_path).or_else(sqlite)
    }
}
