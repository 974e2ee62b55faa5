//! Adapters that read entries from whichever node answers first, while nodes come and go.

use chaos::cluster::Options;

use crate::support::Front;

#[tokio::test]
async fn reads_are_as_fresh_from_the_nearest_node_as_from_the_leader() {
    let front = Front::on(Options::default(), 2, |_| vec!["--tail-from=nearest".to_owned()]).await;
    let cluster = front.cluster.as_ref().unwrap();
    let (mut writer, mut reader) = (front.client(0), front.client(1));
    let mut written = 0;
    for node in cluster.nodes() {
        for gone in [true, false] {
            if gone {
                node.kill9();
            } else {
                node.start().unwrap();
                cluster.wait_ready().await.unwrap();
            }
            for _ in 0..50 {
                written += 1;
                let revision = writer.put("nearest", written.to_string()).await.unwrap();
                let (value, found) = reader.get("nearest").await.unwrap().unwrap();
                assert_eq!((&value[..], found), (written.to_string().as_bytes(), revision));
            }
        }
    }
    front.stop().await;
}
