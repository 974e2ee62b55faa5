//! The pages for people, probes and Prometheus: `/livez`, `/readyz`, `/metrics`.
//!
//! They stand on the same port as the services, over HTTP/1.1 and HTTP/2, and on a listener of their
//! own if one is configured. They tell nothing about entries and change nothing.

use bytes::Bytes;
use http::{HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use metrics_exporter_prometheus::PrometheusHandle;
use serde::Serialize;
use tonic::body::Body;

use crate::health::{Health, Line};

/// Everything that the pages show.
#[derive(Debug, Clone)]
pub struct Pages {
    pub health: Health,
    pub metrics: PrometheusHandle,
}

/// Whether the request is a gRPC call, to be answered by a service.
pub fn is_grpc<B>(request: &Request<B>) -> bool {
    let kind = request.headers().get(header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

#[derive(Serialize)]
struct Report {
    ok: bool,
    checks: Vec<Line>,
}

impl Pages {
    pub fn answer<B>(&self, request: &Request<B>) -> Response<Body> {
        if request.method() != Method::GET && request.method() != Method::HEAD {
            let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET is answered here\n".into());
            response.headers_mut().insert(header::ALLOW, HeaderValue::from_static("GET, HEAD"));
            return response;
        }
        match request.uri().path() {
            "/metrics" => {
                let page = crate::metrics::render(&self.metrics);
                respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", page)
            }
            "/livez" => self.state(request, "live", |line| line.live),
            "/readyz" => self.state(request, "ready", |line| line.ready),
            _ => text(StatusCode::NOT_FOUND, "pages: /livez /readyz /metrics (and gRPC)\n".into()),
        }
    }

    fn state<B>(&self, request: &Request<B>, what: &str, well: fn(&Line) -> bool) -> Response<Body> {
        let checks = self.health.report();
        let ok = checks.iter().all(well);
        let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };

        let accept = request.headers().get(header::ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
        if accept.contains("application/json") {
            let page = serde_json::to_string(&Report { ok, checks }).expect("names and reasons are texts");
            return respond(status, "application/json", page + "\n");
        }
        let verbose = request.uri().query().is_some_and(|query| query.split('&').any(|key| key.starts_with("verbose")));
        let mut page = String::new();
        for line in checks.iter().filter(|line| verbose || !well(line)) {
            let mark = if well(line) { '+' } else { '-' };
            let reason = if line.reason.is_empty() { "ok" } else { &line.reason };
            page.push_str(&format!("[{mark}] {}: {reason}\n", line.name));
        }
        page.push_str(&if ok { "ok\n".to_owned() } else { format!("not {what}\n") });
        text(status, page)
    }
}

fn text(status: StatusCode, page: String) -> Response<Body> {
    respond(status, "text/plain; charset=utf-8", page)
}

fn respond(status: StatusCode, kind: &'static str, page: String) -> Response<Body> {
    let mut response = Response::new(Body::new(Full::new(Bytes::from(page))));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn get(pages: &Pages, path: &str, accept: &str) -> (StatusCode, String) {
        let request = Request::get(path).header(header::ACCEPT, accept).body(()).unwrap();
        let response = pages.answer(&request);
        let status = response.status();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, String::from_utf8(body.to_vec()).unwrap())
    }

    #[tokio::test]
    async fn a_page_says_what_is_wrong_and_only_when_asked_what_is_right() {
        let pages = Pages { health: Health::default(), metrics: crate::metrics::handle() };
        let (disk, group) = (pages.health.check("disk"), pages.health.check("group kubernetes"));
        assert_eq!(get(&pages, "/readyz", "*/*").await, (StatusCode::OK, "ok\n".into()));

        group.not_ready("no leader for 3 s");
        disk.degraded("slow");
        let (status, page) = get(&pages, "/readyz", "*/*").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(page, "[-] group kubernetes: no leader for 3 s\nnot ready\n");
        let (status, page) = get(&pages, "/livez?verbose", "*/*").await;
        assert_eq!(status, StatusCode::OK, "not ready is not dead");
        assert_eq!(page, "[+] disk: slow\n[+] group kubernetes: no leader for 3 s\nok\n");

        let (status, page) = get(&pages, "/readyz", "application/json").await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
        let page: serde_json::Value = serde_json::from_str(&page).unwrap();
        assert_eq!(page["ok"], false);
        assert_eq!(page["checks"][0]["name"], "disk");
        assert_eq!(page["checks"][1]["reason"], "no leader for 3 s");
    }

    #[tokio::test]
    async fn what_is_no_page_is_refused() {
        let pages = Pages { health: Health::default(), metrics: crate::metrics::handle() };
        assert_eq!(get(&pages, "/", "*/*").await.0, StatusCode::NOT_FOUND);
        let post = Request::post("/livez").body(()).unwrap();
        assert_eq!(pages.answer(&post).status(), StatusCode::METHOD_NOT_ALLOWED);
    }
}
