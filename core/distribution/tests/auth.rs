//! Credentials go where they belong, and nowhere else.
#![allow(clippy::unwrap_used)]

mod support;

use std::sync::atomic::{AtomicUsize, Ordering};

use containerkit::ErrorKind;
use containerkit_distribution::{Registry, Secret, Settings};
use support::*;

/// `user:secret` in Basic.
const BASIC: &str = "Basic dXNlcjpzZWNyZXQ=";

fn with_creds(servers: &[&Server], domain: &Server) -> Settings {
    let mut settings = settings(servers);
    let secret = Secret::Password {
        user: "user".into(),
        password: "secret".into(),
    };
    settings
        .keyring
        .given
        .insert(domain.address.clone(), secret);
    settings
}

fn image() -> (Content, Vec<u8>) {
    let layer = noise(10_000, 1);
    let mut content = Content::default();
    content.image(&[&layer], "amd64", Some("v1"));
    (content, layer)
}

fn secrets(server: &Server) -> usize {
    let asked = server.asked();
    asked
        .iter()
        .filter(|asked| asked.header("authorization").is_some())
        .count()
}

#[test]
fn basic_is_given_when_it_is_asked_for() {
    let (content, layer) = image();
    let server = Server::start(move |asked| match asked.header("authorization") {
        Some(BASIC) => content.serve(asked),
        _ => Reply::new(401).header("www-authenticate", "Basic realm=\"r\""),
    });
    let store = Store::new();
    let reference = server.reference("a:v1");
    store
        .pull(with_creds(&[&server], &server), &reference)
        .unwrap();
    assert!(store.has(&layer));
    let error = Store::new()
        .pull(settings(&[&server]), &reference)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
    says(&error, &["401", "--creds", "containerkit login"]);
}

#[test]
fn nothing_goes_where_a_redirect_leads() {
    let (content, layer) = image();
    let elsewhere = {
        let content = content.clone();
        Server::on("127.0.0.2", move |asked| content.serve(asked))
    };
    let target = elsewhere.address.clone();
    let server = Server::start(move |asked| {
        if asked.header("authorization") != Some(BASIC) {
            return Reply::new(401).header("www-authenticate", "Basic realm=\"r\"");
        }
        match asked.path.contains("/blobs/") {
            true => Reply::new(307).header("location", format!("http://{target}{}", asked.path)),
            false => content.serve(asked),
        }
    });
    let store = Store::new();
    store
        .pull(with_creds(&[&server], &server), &server.reference("a:v1"))
        .unwrap();
    assert!(store.has(&layer));
    assert_eq!(elsewhere.count("GET", "/blobs/"), 2);
    assert_eq!(secrets(&elsewhere), 0);
}

#[test]
fn a_redirect_that_asks_for_credentials_gets_none() {
    let elsewhere = Server::on("127.0.0.2", |_| {
        Reply::new(401).header("www-authenticate", "Basic realm=\"r\"")
    });
    let target = elsewhere.address.clone();
    let server = Server::start(move |asked| {
        Reply::new(302).header("location", format!("http://{target}{}", asked.path))
    });
    let error = Store::new()
        .pull(with_creds(&[&server], &server), &server.reference("a:v1"))
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert_eq!(secrets(&elsewhere), 0);
}

/// A registry whose tokens are of a server at `realm`.
fn with_tokens(content: Content, realm: String) -> Server {
    Server::start(move |asked| match asked.header("authorization") {
        Some("Bearer good") => content.serve(asked),
        _ => Reply::new(401).header(
            "www-authenticate",
            format!("Bearer realm=\"http://{realm}/token\",service=\"s\",scope=\"x\""),
        ),
    })
}

fn token_server(host: &str) -> Server {
    Server::on(host, |asked| match asked.header("authorization") {
        Some(BASIC) => Reply::ok(*b"{\"token\":\"good\"}"),
        _ => Reply::ok(*b"{\"token\":\"poor\"}"),
    })
}

#[test]
fn a_token_server_on_the_registrys_host_is_given_them() {
    let (content, layer) = image();
    let tokens = token_server("127.0.0.1");
    let server = with_tokens(content, tokens.address.clone());
    let store = Store::new();
    store
        .pull(with_creds(&[&server], &server), &server.reference("a:v1"))
        .unwrap();
    assert!(store.has(&layer));
    let asked = tokens.asked();
    assert_eq!(asked.len(), 1, "one token serves all: {asked:?}");
    assert!(asked[0].path.contains("service=s"), "{asked:?}");
    assert!(
        asked[0].path.contains("scope=repository:a:pull"),
        "{asked:?}"
    );
}

#[test]
fn a_token_server_elsewhere_is_asked_as_nobody() {
    let (content, _) = image();
    let tokens = token_server("127.0.0.2");
    let server = with_tokens(content.clone(), tokens.address.clone());
    let reference = server.reference("a:v1");
    let error = Store::new()
        .pull(with_creds(&[&server], &server), &reference)
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error}");
    assert_eq!(tokens.asked().len(), 1);
    assert_eq!(secrets(&tokens), 0);

    // Until the registry's settings cover it.
    let mut settings = with_creds(&[&server], &server);
    let registry = settings.registries.get_mut(&server.address).unwrap();
    registry.token_realms = Some(vec![format!("http://{}", tokens.address).parse().unwrap()]);
    Store::new().pull(settings, &reference).unwrap();
    assert_eq!(secrets(&tokens), 1);

    // And what they list is all that they cover.
    let near = token_server("127.0.0.1");
    let server = with_tokens(content, near.address.clone());
    let mut settings = with_creds(&[&server], &server);
    let registry = settings.registries.get_mut(&server.address).unwrap();
    registry.token_realms = Some(vec!["https://auth.example".parse().unwrap()]);
    Store::new()
        .pull(settings, &server.reference("a:v1"))
        .unwrap_err();
    assert_eq!(secrets(&near), 0);
}

#[test]
fn identity_tokens_are_exchanged() {
    let (content, layer) = image();
    let tokens = Server::start(|asked| {
        let body = String::from_utf8_lossy(&asked.body).into_owned();
        match asked.method == "POST" && body.contains("refresh_token=long%20lived") {
            true => Reply::ok(*b"{\"access_token\":\"good\",\"expires_in\":300}"),
            false => Reply::new(400),
        }
    });
    let server = with_tokens(content, tokens.address.clone());
    let mut settings = settings(&[&server]);
    let secret = Secret::IdentityToken("long lived".into());
    settings
        .keyring
        .given
        .insert(server.address.clone(), secret);
    let store = Store::new();
    store.pull(settings, &server.reference("a:v1")).unwrap();
    assert!(store.has(&layer));
}

#[test]
fn tokens_that_are_none_are_refused() {
    let (content, _) = image();
    for body in [
        "{}",
        "{\"token\":\"\"}",
        "{\"token\":\"a\\r\\nX-Evil: 1\"}",
        "nonsense s3cret",
    ] {
        let tokens = Server::start(move |_| Reply::ok(body));
        let server = with_tokens(content.clone(), tokens.address.clone());
        let error = Store::new()
            .pull(with_creds(&[&server], &server), &server.reference("a:v1"))
            .unwrap_err();
        says(&error, &["answers with no token"]);
        assert!(!error.to_string().contains("s3cret"), "{error}");
    }
}

#[test]
fn a_mirror_does_not_get_the_registrys_credentials() {
    let (content, _) = image();
    let mirror = Server::start(|_| Reply::new(401).header("www-authenticate", "Basic realm=\"r\""));
    let server = Server::start(move |asked| match asked.header("authorization") {
        Some(BASIC) => content.serve(asked),
        _ => Reply::new(401).header("www-authenticate", "Basic realm=\"r\""),
    });
    let mut settings = with_creds(&[&server, &mirror], &server);
    let registry = settings.registries.get_mut(&server.address).unwrap();
    registry.mirrors = vec![format!("http://{}", mirror.address).parse().unwrap()];
    Store::new()
        .pull(settings, &server.reference("a:v1"))
        .unwrap();
    assert!(mirror.count("GET", "/v2/") > 0);
    assert_eq!(secrets(&mirror), 0);
}

#[test]
fn credentials_are_not_given_to_the_same_name_in_the_clear() {
    let (content, layer) = image();
    let mirror = Server::start(|_| Reply::new(401).header("www-authenticate", "Basic realm=\"r\""));
    let server = Server::start(move |asked| content.serve(asked));
    // They are of https://MIRROR; the mirror is http://MIRROR.
    let mut settings = with_creds(&[&server], &mirror);
    let registry = settings.registries.get_mut(&server.address).unwrap();
    registry.mirrors = vec![format!("http://{}", mirror.address).parse().unwrap()];
    let store = Store::new();
    store.pull(settings, &server.reference("a:v1")).unwrap();
    assert!(store.has(&layer));
    assert!(mirror.count("GET", "/v2/") > 0);
    assert_eq!(secrets(&mirror), 0);
}

#[test]
fn a_token_server_that_is_busy_is_asked_again() {
    let (content, _) = image();
    let turn = AtomicUsize::new(0);
    let tokens = Server::start(move |_| match turn.fetch_add(1, Ordering::Relaxed) {
        0 => Reply::new(429).header("retry-after", "0"),
        1 => Reply::new(503),
        _ => Reply::ok(*b"{\"token\":\"good\"}"),
    });
    let server = with_tokens(content, tokens.address.clone());
    Store::new()
        .pull(settings(&[&server]), &server.reference("a:v1"))
        .unwrap();
    assert_eq!(tokens.asked().len(), 3);
}

#[test]
fn a_login_is_tried_at_the_registry() {
    let server = Server::start(|asked| match asked.header("authorization") {
        Some(BASIC) if asked.path == "/v2/" => Reply::ok(*b"{}"),
        _ => Reply::new(401).header("www-authenticate", "Basic realm=\"r\""),
    });
    let registry = Registry::new(with_creds(&[&server], &server));
    registry.probe(&server.address).unwrap();
    let registry = Registry::new(settings(&[&server]));
    let error = registry.probe(&server.address).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::PermissionDenied);
}
