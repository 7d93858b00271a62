//! Data that two instances must not write at the same time: that of a database, cache or queue, and databases that an
//! application keeps in a file.

use super::Service;

/// Names of images. A name also matches images that end with `-NAME`, such as `zulip-postgresql`.
const STORE_IMAGES: [(&str, &str); 52] = [
    ("postgres", "PostgreSQL"),
    ("postgresql", "PostgreSQL"),
    ("postgis", "PostgreSQL"),
    ("pgvector", "PostgreSQL"),
    ("timescaledb", "PostgreSQL"),
    ("pgbouncer", "PgBouncer"),
    ("mysql", "MySQL"),
    ("percona", "MySQL"),
    ("mariadb", "MariaDB"),
    ("mssql/server", "SQL Server"),
    ("azure-sql-edge", "SQL Server"),
    ("cockroach", "CockroachDB"),
    ("mongo", "MongoDB"),
    ("mongodb", "MongoDB"),
    ("mongodb-community-server", "MongoDB"),
    ("ferretdb", "FerretDB"),
    ("couchdb", "CouchDB"),
    ("cassandra", "Cassandra"),
    ("scylla", "ScyllaDB"),
    ("neo4j", "Neo4j"),
    ("redis", "Redis"),
    ("redis-stack", "Redis"),
    ("redis-stack-server", "Redis"),
    ("redis-sentinel", "Redis"),
    ("valkey", "Valkey"),
    ("keydb", "KeyDB"),
    ("dragonfly", "Dragonfly"),
    ("memcached", "Memcached"),
    ("rabbitmq", "RabbitMQ"),
    ("kafka", "Kafka"),
    ("redpanda", "Redpanda"),
    ("zookeeper", "ZooKeeper"),
    ("nats", "NATS"),
    ("eclipse-mosquitto", "Mosquitto"),
    ("etcd", "etcd"),
    ("elasticsearch", "Elasticsearch"),
    ("opensearch", "OpenSearch"),
    ("meilisearch", "Meilisearch"),
    ("typesense", "Typesense"),
    ("solr", "Solr"),
    ("qdrant", "Qdrant"),
    ("weaviate", "Weaviate"),
    ("milvus", "Milvus"),
    ("chroma", "Chroma"),
    ("influxdb", "InfluxDB"),
    ("clickhouse", "ClickHouse"),
    ("clickhouse-server", "ClickHouse"),
    ("prometheus", "Prometheus"),
    ("victoria-metrics", "VictoriaMetrics"),
    ("loki", "Loki"),
    ("minio", "MinIO"),
    ("seaweedfs", "SeaweedFS"),
];

/// Folders in which a server keeps its data.
const STORE_PATHS: [(&str, &str); 5] = [
    ("/var/lib/postgresql", "PostgreSQL"),
    ("/var/lib/mysql", "MySQL"),
    ("/data/db", "MongoDB"),
    ("/var/lib/rabbitmq", "RabbitMQ"),
    ("/var/lib/clickhouse", "ClickHouse"),
];

/// Ports that no web server uses.
const STORE_PORTS: [(&str, &str); 12] = [
    ("5432/tcp", "PostgreSQL"),
    ("3306/tcp", "MySQL"),
    ("1433/tcp", "SQL Server"),
    ("27017/tcp", "MongoDB"),
    ("9042/tcp", "Cassandra"),
    ("6379/tcp", "Redis"),
    ("11211/tcp", "Memcached"),
    ("5672/tcp", "RabbitMQ"),
    ("9092/tcp", "Kafka"),
    ("2181/tcp", "ZooKeeper"),
    ("4222/tcp", "NATS"),
    ("1883/tcp", "MQTT"),
];

/// Images of applications with a database in a file, and the variable that selects another database.
const EMBEDDED: [(&str, &str, &str); 19] = [
    ("vaultwarden/server", "SQLite", "DATABASE_URL"),
    ("uptime-kuma", "SQLite", "UPTIME_KUMA_DB_TYPE"),
    ("grafana", "SQLite", "GF_DATABASE_TYPE"),
    ("n8n", "SQLite", "DB_TYPE"),
    ("gitea", "LevelDB", ""),
    ("forgejo", "LevelDB", ""),
    ("portainer", "BoltDB", ""),
    ("portainer-ce", "BoltDB", ""),
    ("portainer-ee", "BoltDB", ""),
    ("home-assistant", "SQLite", ""),
    ("jellyfin", "SQLite", ""),
    ("pihole", "SQLite", ""),
    ("adguardhome", "BoltDB", ""),
    ("mealie", "SQLite", "DB_ENGINE"),
    ("kanboard", "SQLite", "DATABASE_URL"),
    ("open-webui", "SQLite", "DATABASE_URL"),
    ("pocketbase", "SQLite", ""),
    ("metabase", "H2", "MB_DB_TYPE"),
    ("minecraft-server", "its world", ""),
];

impl Service {
    /// The database, cache or queue that the service is: by its image, the folder of its data or its ports.
    pub fn data_store(&self) -> Option<&'static str> {
        // A built image may be named after the store that it uses.
        let is_named = |name: &str| is_image(&self.image, name) && (!self.is_built() || self.image == name);
        let by_image = || find(&STORE_IMAGES, is_named);
        let paths = self.shared_paths();
        let by_path = || find(&STORE_PATHS, |folder| paths.iter().any(|path| is_inside(path, folder)));
        by_image().or_else(by_path).or_else(|| self.store_of_ports())
    }

    /// The store whose port is the only kind of port of the service.
    fn store_of_ports(&self) -> Option<&'static str> {
        let ports = self.exposed();
        let stores = ports.iter().map(|port| find(&STORE_PORTS, |known| port == known));
        stores.collect::<Option<Vec<_>>>()?.first().copied()
    }

    /// The database in a file of the service, for which only one instance may run.
    pub fn embedded_database(&self) -> Option<&'static str> {
        let is_file = |value: &str| {
            let value = value.to_lowercase();
            value.starts_with("sqlite:") || value.ends_with(".sqlite3") || value.ends_with(".sqlite")
        };
        let in_environment = self.environment.values().any(|value| is_file(value));
        let in_path = || self.shared_paths().iter().any(|path| path.to_lowercase().contains("sqlite"));
        let is_default = |variable: &str| {
            self.environment.get(variable).is_none_or(|value| value.to_lowercase().contains("sqlite"))
        };
        let by_image = || {
            let mut known =
                EMBEDDED.iter().filter(|(name, _, other)| is_image(&self.image, name) && is_default(other));
            known.next().map(|(_, kind, _)| *kind)
        };
        if in_environment || in_path() { Some("SQLite") } else { by_image() }
    }

    /// The database for which only one instance may run, of either kind.
    pub fn single_writer(&self) -> Option<&'static str> {
        self.data_store().or_else(|| self.embedded_database())
    }
}

fn find(known: &[(&str, &'static str)], matches: impl Fn(&str) -> bool) -> Option<&'static str> {
    known.iter().find(|(key, _)| matches(key)).map(|(_, kind)| *kind)
}

/// True if an image reference has this name as its last part, or as the end of it after a `-`.
fn is_image(reference: &str, name: &str) -> bool {
    let start = reference.rfind('/').map_or(0, |slash| slash + 1);
    let end = reference[start..].find([':', '@']).map_or(reference.len(), |length| start + length);
    let rest = reference[..end].strip_suffix(name);
    rest.is_some_and(|before| before.is_empty() || before.ends_with(['/', '-']))
}

fn is_inside(path: &str, folder: &str) -> bool {
    path.strip_prefix(folder).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

#[cfg(test)]
mod tests {
    use crate::model::{FlagLayers, Project, Service};

    fn service(keys: &str) -> Service {
        let yaml = format!("name: p\nservices: {{app: {{{keys}}}}}");
        let mut project = Project::read(&yaml, "f", &FlagLayers::default()).unwrap();
        project.services.remove("app").unwrap()
    }

    #[test]
    fn a_store_is_known_by_its_image() {
        let kind = |image: &str| service(&format!("image: '{image}'")).data_store();
        assert_eq!(kind("docker.io/library/postgres:16"), Some("PostgreSQL"));
        assert_eq!(kind("bitnami/redis@sha256:0"), Some("Redis"));
        assert_eq!(kind("zulip/zulip-postgresql:14"), Some("PostgreSQL"));
        assert_eq!(kind("registry:5000/confluentinc/cp-kafka"), Some("Kafka"));
        assert_eq!(kind("mcr.microsoft.com/mssql/server:2022"), Some("SQL Server"));
        for other in
            ["postgres-exporter:1", "server", "supabase/postgres-meta", "mongo-express", "mypostgres"]
        {
            assert_eq!(kind(other), None, "{other}");
        }
    }

    #[test]
    fn a_store_is_known_by_its_folder_or_its_ports() {
        let at = |path: &str| {
            service(&format!("image: shop, volumes: [{{type: volume, source: d, target: {path}}}]"))
                .data_store()
        };
        assert_eq!(at("/var/lib/postgresql/data"), Some("PostgreSQL"));
        for other in ["/static", "/data/dbs", "/uploads"] {
            assert_eq!(at(other), None, "{other}");
        }
        let ports = |ports: &str| service(&format!("image: shop, expose: [{ports}]")).data_store();
        assert_eq!(ports("'6379'"), Some("Redis"));
        assert_eq!((ports(""), ports("'80'"), ports("'5672', '15672'")), (None, None, None));
    }

    #[test]
    fn a_database_in_a_file_is_known_by_an_address_a_path_or_the_image() {
        let kind = |image: &str, path: &str, variable: &str| {
            let volume = format!("volumes: [{{type: volume, source: d, target: {path}}}]");
            let service = service(&format!("image: '{image}', environment: {{{variable}}}, {volume}"));
            assert_eq!(service.data_store(), None);
            service.embedded_database()
        };
        assert_eq!(kind("shop:1", "/data", "A: 'sqlite:///x.db'"), Some("SQLite"));
        assert_eq!(kind("shop:1", "/data", "A: /data/x.sqlite3"), Some("SQLite"));
        assert_eq!(kind("shop:1", "/app/sqlite", ""), Some("SQLite"));
        assert_eq!(kind("shop:1", "/static", "A: 'postgres://db/x'"), None);
        assert_eq!(kind("vaultwarden/server:1", "/data", ""), Some("SQLite"));
        assert_eq!(kind("n8nio/n8n", "/home", "DB_TYPE: sqlite"), Some("SQLite"));
        assert_eq!(kind("n8nio/n8n", "/home", "DB_TYPE: postgresdb"), None);
        assert_eq!(kind("gitea/gitea:1", "/data", "DB_TYPE: postgres"), Some("LevelDB"));
    }
}
