#!/bin/sh
# Writes a complete nginx configuration into a folder (/etc/nginx unless another is given):
#   render.sh [FOLDER]
# What it fills in comes from variables; docs/deployment.md has the list. Those that start with ASR_ are the service's own
# settings: give both the same environment, and the limits of both agree. Run `nginx -t` afterwards.
# shellcheck disable=SC2034 # The loop below reads variables by their names.
set -euf

source=$(dirname "$(readlink -f "$0")")/conf
target=${1:-/etc/nginx}

first_folder() {
    for folder in "$@"; do
        if [ -d "$folder" ]; then echo "$folder" && return; fi
    done
    echo "$1"
}

# Seconds as a whole number, rounded up: nginx takes no fractions.
whole() {
    case $1 in
        *.*) echo $((${1%%.*} + 1)) ;;
        *) echo "$1" ;;
    esac
}

: "${ASR_MAX_UPLOAD_MB:=512}" "${ASR_REQUEST_TIMEOUT_S:=3600}" "${ASR_UPLOAD_TIMEOUT_S:=60}"
: "${PROXY_UPSTREAMS:=127.0.0.1:8000}" "${PROXY_SERVER_NAMES:=_}"
: "${PROXY_HTTP_PORT:=80}" "${PROXY_HTTPS_PORT:=443}"
: "${PROXY_CERTIFICATE:=/etc/nginx/tls/fullchain.pem}" "${PROXY_CERTIFICATE_KEY:=/etc/nginx/tls/privkey.pem}"
: "${PROXY_ACME_ROOT:=/var/www/acme}" "${PROXY_UI_PASSWORDS:=/etc/nginx/asr-ui.htpasswd}"
: "${PROXY_INTERNAL_NETWORKS:=127.0.0.0/8 ::1}" "${PROXY_REAL_IP_FROM:=}"
: "${PROXY_REQUESTS_PER_S:=10}" "${PROXY_BURST:=50}" "${PROXY_CONNECTIONS:=32}" "${PROXY_HEADER_TIMEOUT_S:=10}"
: "${PROXY_PID:=/run/nginx.pid}" "${PROXY_LOG_DIR:=/var/log/nginx}"
: "${PROXY_STATE_DIR:=$(first_folder /var/lib/nginx /var/cache/nginx)}"
if [ -z "${PROXY_ADDRESSES:-}" ]; then
    PROXY_ADDRESSES=0.0.0.0
    if [ -e /proc/net/if_inet6 ]; then PROXY_ADDRESSES="0.0.0.0 [::]"; fi
fi
# Workers change to this user, which takes root.
if [ -z "${PROXY_USER:-}" ] && [ "$(id -u)" = 0 ]; then
    for PROXY_USER in www-data nginx nobody; do
        if id "$PROXY_USER" >/dev/null 2>&1; then break; fi
    done
fi

UPLOAD_TIMEOUT_S=$(whole "$ASR_UPLOAD_TIMEOUT_S")
ANSWER_TIMEOUT_S=${PROXY_ANSWER_TIMEOUT_S:-$(($(whole "$ASR_REQUEST_TIMEOUT_S") + 10))}
USER_LINE=${PROXY_USER:+user $PROXY_USER;}
PORT_SUFFIX=
if [ "$PROXY_HTTPS_PORT" != 443 ]; then PORT_SUFFIX=:$PROXY_HTTPS_PORT; fi

# HTTP/2 is turned on by a directive since nginx 1.25.1, which warns of the older way.
http2_option=
http2_line=
version=$(nginx -v 2>&1 | sed -n 's|.*nginx/\([0-9]*\)\.\([0-9]*\)\.\([0-9]*\).*|\1 * 1000000 + \2 * 1000 + \3|p')
if [ "$((${version:-0}))" -ge 1025001 ]; then http2_line="http2 on;"; else http2_option=" http2"; fi

fill_in=
for name in ASR_MAX_UPLOAD_MB UPLOAD_TIMEOUT_S ANSWER_TIMEOUT_S USER_LINE PORT_SUFFIX PROXY_SERVER_NAMES \
    PROXY_CERTIFICATE PROXY_CERTIFICATE_KEY PROXY_ACME_ROOT PROXY_UI_PASSWORDS PROXY_REQUESTS_PER_S PROXY_BURST \
    PROXY_CONNECTIONS PROXY_HEADER_TIMEOUT_S PROXY_PID PROXY_LOG_DIR PROXY_STATE_DIR; do
    eval "value=\$$name"
    # What could end a directive, or the command below, is in no honest value.
    case ${value%;} in
        *[!A-Za-z0-9._:/*\ ~@%+=,-]*)
            echo "$name='$value' cannot be used in nginx's configuration." >&2
            exit 2
            ;;
    esac
    fill_in="$fill_in;s|\${$name}|$value|g"
done
for value in $PROXY_UPSTREAMS $PROXY_INTERNAL_NETWORKS $PROXY_REAL_IP_FROM $PROXY_ADDRESSES $PROXY_HTTP_PORT \
    $PROXY_HTTPS_PORT; do
    case $value in
        *[!]A-Za-z0-9._:/[-]*)
            echo "'$value' is no address, network or port for nginx's configuration." >&2
            exit 2
            ;;
    esac
done

mkdir -p "$target/asr-service"
if [ -e "$target/nginx.conf" ] && ! grep -q deploy/nginx/render.sh "$target/nginx.conf"; then
    mv "$target/nginx.conf" "$target/nginx.conf.before-asr-service"
fi
for file in nginx.conf asr-service/logs.conf asr-service/limits.conf asr-service/tls.conf asr-service/variables.conf \
    asr-service/headers.conf asr-service/errors.conf asr-service/proxy.conf asr-service/uploads.conf \
    asr-service/page.conf asr-service/servers.conf; do
    sed -e "${fill_in#;}" "$source/$file" >"$target/$file"
done

{
    echo "# The replicas. Written by render.sh from PROXY_UPSTREAMS."
    echo "upstream asr_service {"
    echo "    # What all workers know about the replicas, and the least busy one first: transcriptions differ in length."
    echo "    zone asr_service 256k;"
    echo "    least_conn;"
    for server in $PROXY_UPSTREAMS; do
        echo "    server $server max_fails=1 fail_timeout=5s;"
    done
    echo "    keepalive 64;"
    echo "    # Less than the 75 s after which the service closes an idle connection, lest a POST meets a closing one."
    echo "    keepalive_timeout 60s;"
    echo "}"
} >"$target/asr-service/upstream.conf"

{
    echo "# Whose word on the client's address counts. Written by render.sh from PROXY_REAL_IP_FROM."
    for network in $PROXY_REAL_IP_FROM; do
        echo "set_real_ip_from $network;"
    done
    if [ -n "$PROXY_REAL_IP_FROM" ]; then
        echo "real_ip_header X-Forwarded-For;"
        echo "real_ip_recursive on;"
    fi
} >"$target/asr-service/real-ip.conf"

{
    echo "# Written by render.sh from PROXY_INTERNAL_NETWORKS."
    for network in $PROXY_INTERNAL_NETWORKS; do
        echo "allow $network;"
    done
    echo "deny all;"
} >"$target/asr-service/internal.conf"

for address in $PROXY_ADDRESSES; do
    echo "listen $address:$PROXY_HTTP_PORT default_server;"
done >"$target/asr-service/listen-http.conf"

{
    for address in $PROXY_ADDRESSES; do
        echo "listen $address:$PROXY_HTTPS_PORT ssl$http2_option default_server;"
    done
    echo "$http2_line"
} >"$target/asr-service/listen-https.conf"
