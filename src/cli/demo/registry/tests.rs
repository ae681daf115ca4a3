use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::*;

const TOKEN: &str = "/token?service=sample-registry&scope=repository:demo/app:pull";

async fn sample() -> (SampleRegistry, Image) {
    let image = Image::make("demo/app", "1.0", &[1], 1);
    (SampleRegistry::start(vec![image.clone()], Secret::new("right".into())).await.unwrap(), image)
}

/// Status, head and body of the answer to one GET.
async fn get(address: SocketAddr, path: &str, authorization: &str) -> (u16, String, Vec<u8>) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let shown = if authorization.is_empty() { String::new() } else { format!("Authorization: {authorization}\r\n") };
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n{shown}\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n").unwrap();
    let head = String::from_utf8(answer[..end].to_vec()).unwrap();
    (head[9..12].parse().unwrap(), head, answer[end + 4..].to_vec())
}

async fn token(registry: &SampleRegistry) -> String {
    let basic = format!("Basic {}", STANDARD.encode(format!("{USERNAME}:right")));
    let (status, _, body) = get(registry.api(), TOKEN, &basic).await;
    assert_eq!(status, 200);
    let answer: serde_json::Value = serde_json::from_slice(&body).unwrap();
    format!("Bearer {}", answer["token"].as_str().unwrap())
}

/// Where the redirect of a blob leads, as path and query.
async fn location(registry: &SampleRegistry, image: &Image) -> String {
    let path = format!("/v2/demo/app/blobs/{}", image.blobs[0].digest);
    let (status, head, _) = get(registry.api(), &path, &token(registry).await).await;
    assert_eq!(status, 307);
    let line = head.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
    line.strip_prefix(&format!("http://{}", registry.storage())).unwrap().to_owned()
}

#[tokio::test]
async fn whoever_shows_nothing_is_told_where_tokens_are_and_given_none() {
    let (registry, image) = sample().await;
    for path in ["/v2/", "/v2/demo/app/manifests/1.0", &format!("/v2/demo/app/blobs/{}", image.blobs[0].digest)] {
        let (status, head, _) = get(registry.api(), path, "").await;
        assert_eq!(status, 401, "{path}");
        assert!(head.contains(&format!("Bearer realm=\"http://{}/token\"", registry.api())), "{head}");
    }
    assert_eq!(get(registry.api(), TOKEN, "").await.0, 401);
    let seen = registry.seen();
    assert_eq!((seen.tokens, seen.refused, seen.manifests, seen.blob_requests(), seen.bytes), (0, 4, 0, 0, 0));
}

#[tokio::test]
async fn a_wrong_password_gets_no_token_and_a_guessed_token_no_manifest() {
    let (registry, _) = sample().await;
    let wrong = format!("Basic {}", STANDARD.encode(format!("{USERNAME}:wrong")));
    assert_eq!(get(registry.api(), TOKEN, &wrong).await.0, 401);
    assert_eq!(get(registry.api(), "/v2/demo/app/manifests/1.0", "Bearer guessed").await.0, 401);
    assert_eq!(registry.seen().tokens, 0);
}

#[tokio::test]
async fn the_account_reads_the_manifest_and_by_redirect_every_byte_of_a_blob() {
    let (registry, image) = sample().await;
    let (status, _, body) = get(registry.api(), "/v2/demo/app/manifests/1.0", &token(&registry).await).await;
    assert_eq!((status, &body[..]), (200, &image.manifest.content[..]));
    let (status, _, body) = get(registry.storage(), &location(&registry, &image).await, "").await;
    assert_eq!((status, &body[..]), (200, &image.blobs[0].content[..]));
    let seen = registry.seen();
    assert_eq!((seen.manifests, seen.blob_requests(), seen.leaks), (1, 1, 0));
    assert_eq!(seen.bytes, (image.manifest.content.len() + image.blobs[0].content.len()) as u64);
}

#[tokio::test]
async fn a_forged_address_gets_nothing_and_a_credential_at_the_second_origin_is_noticed() {
    let (registry, image) = sample().await;
    let signed = location(&registry, &image).await;
    let other = signed.replace(&image.blobs[0].digest.hex(), &image.blobs[1].digest.hex());
    for forged in [&other, &format!("{signed}0"), &format!("/{}", image.blobs[0].digest)] {
        assert_eq!(get(registry.storage(), forged, "").await.0, 403, "{forged}");
    }
    assert_eq!(get(registry.storage(), &signed, &token(&registry).await).await.0, 400);
    let seen = registry.seen();
    assert_eq!((seen.leaks, seen.bytes), (1, 0));
}
