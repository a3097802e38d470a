#!/bin/sh
# Starts Alertmanager with the routes of alertmanager.yml and the receivers that the environment names; what is not named is not there.
#
#   ALERT_SLACK_URL          Slack's incoming webhook; pages and tickets       ALERT_SLACK_CHANNEL
#   ALERT_PAGERDUTY_KEY      routing key of an Events API v2 integration; pages alone
#   ALERT_EMAIL_TO           addresses; pages and tickets                      ALERT_EMAIL_FROM, ALERT_SMTP_HOST (host:port),
#                                                                              ALERT_SMTP_USER, ALERT_SMTP_PASSWORD, ALERT_SMTP_TLS=false
#
# URL, key and password are secrets: NAME_FILE names a file that holds one instead. They are in no argument and in no configuration.
set -eu
umask 077
here=$(dirname "$0")
made=$(mktemp -d)

secret() { # NAME FILE: the secret in a file of ours, if there is one; else 1
    eval "value=\${$1:-} file=\${$1_FILE:-}"
    [ -z "$file" ] || value=$(cat "$file")
    [ -n "$value" ] || return 1
    printf %s "$value" >"$made/$2"
}

text() { # a YAML text, whatever is in it
    printf "'%s'" "$(printf %s "$1" | sed "s/'/''/g")"
}

slack='' pagerduty='' email=''
if secret ALERT_SLACK_URL slack; then
    slack="
    slack_configs:
      - api_url_file: $made/slack
        send_resolved: true"
    [ -z "${ALERT_SLACK_CHANNEL:-}" ] || slack="$slack
        channel: $(text "$ALERT_SLACK_CHANNEL")"
fi
if secret ALERT_PAGERDUTY_KEY pagerduty; then
    pagerduty="
    pagerduty_configs:
      - routing_key_file: $made/pagerduty
        send_resolved: true"
    [ -z "${ALERT_PAGERDUTY_URL:-}" ] || pagerduty="$pagerduty
        url: $(text "$ALERT_PAGERDUTY_URL")"
fi
if [ -n "${ALERT_EMAIL_TO:-}" ]; then
    : "${ALERT_EMAIL_FROM:?ALERT_EMAIL_TO needs ALERT_EMAIL_FROM}" "${ALERT_SMTP_HOST:?ALERT_EMAIL_TO needs ALERT_SMTP_HOST, host:port}"
    email="
    email_configs:
      - to: $(text "$ALERT_EMAIL_TO")
        from: $(text "$ALERT_EMAIL_FROM")
        smarthost: $(text "$ALERT_SMTP_HOST")
        require_tls: ${ALERT_SMTP_TLS:-true}
        send_resolved: true"
    if secret ALERT_SMTP_PASSWORD smtp; then
        email="$email
        auth_username: $(text "${ALERT_SMTP_USER:-}")
        auth_password_file: $made/smtp"
    fi
fi
{
    sed '/^receivers:/,$d' "$here/alertmanager.yml"
    printf 'receivers:\n  - name: pages%s%s%s\n  - name: tickets%s%s\n' "$pagerduty" "$slack" "$email" "$slack" "$email"
} >"$made/alertmanager.yml"
exec "${ALERTMANAGER:-alertmanager}" --config.file="$made/alertmanager.yml" "$@"
