//! tmp
fn main() {
    let text = std::env::args()
        .skip_while(|a| a != "--config")
        .nth(1)
        .map(|f| std::fs::read_to_string(f).unwrap())
        .unwrap_or_default();
    let mut settings = transship::config::Settings::temporary(&text);
    settings.log.level = std::env::var("LOG").unwrap_or("info".into());
    if text.contains("\"json\"") {
        settings.log.format = transship::telemetry::LogFormat::Json;
    }
    transship::telemetry::start(&settings.log).unwrap();
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(async {
        let proxy = transship::proxy::Proxy::start(settings).await.unwrap();
        let mut term = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate()).unwrap();
        tokio::select! { _ = tokio::signal::ctrl_c() => {}, _ = term.recv() => {} }
        proxy.shutdown().await;
    });
}
