# The image of `cargo xtask image`, for other builders. Nothing is fetched:
#   cargo xtask image && docker build --file Dockerfile --tag nodetls:0.1.0 target/image/root
FROM scratch
COPY nodetls /nodetls
COPY etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
USER 65532:65532
ENTRYPOINT ["/nodetls"]
