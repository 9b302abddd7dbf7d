# The image of the manager and of the sidecar: two static binaries, nothing else.
# hack/image.sh makes the same without docker.
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
ARG TARGETOS TARGETARCH VERSION=dev
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY api api
COPY cmd cmd
COPY controllers controllers
COPY nbdserver nbdserver
RUN CGO_ENABLED=0 GOOS=$TARGETOS GOARCH=$TARGETARCH \
    go build -trimpath -ldflags "-s -w -X main.version=$VERSION" -o /out/ ./cmd/nbdserver ./cmd/manager

FROM scratch
ARG VERSION=dev
LABEL org.opencontainers.image.version=$VERSION org.opencontainers.image.licenses=Apache-2.0
COPY --from=build /out/nbdserver /out/manager /
USER 65532:65532
ENTRYPOINT ["/nbdserver"]
