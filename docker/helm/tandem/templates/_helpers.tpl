{{- define "tandem.name" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 50 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 50 | trimSuffix "-" }}{{ end }}
{{- end }}

{{- define "tandem.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- /* Pods have labels of the user's besides: a cloud's identity or a mesh may want some. They are never selected by. */ -}}
{{- define "tandem.podLabels" -}}
{{ include "tandem.labels" . }}
{{- with .root.Values.podLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "tandem.labels" -}}
{{ include "tandem.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "tandem.image" -}}
{{- $image := get .root.Values.images .target }}
{{- $image.repository }}{{ if $image.digest }}@{{ $image.digest }}{{ else }}:{{ default .root.Chart.AppVersion $image.tag }}{{ end }}
{{- end }}

{{- define "tandem.account" -}}
{{- if .Values.serviceAccount.create }}{{ default (include "tandem.name" .) .Values.serviceAccount.name }}{{ else }}{{ default "default" .Values.serviceAccount.name }}{{ end }}
{{- end }}

{{- define "tandem.claim" -}}
{{ default (printf "%s-data" (include "tandem.name" .)) .Values.data.existingClaim }}
{{- end }}

{{- /* What every pod has: no token, no root, and the volumes. With the data on an object store only the stream keeps its folder. */ -}}
{{- define "tandem.pod" -}}
{{- $part := .part }}
{{- with .root }}
serviceAccountName: {{ include "tandem.account" . }}
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{ toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
volumes:
  - name: data
    {{- if and .Values.data.url (ne $part "stream") }}
    emptyDir: {{ include "tandem.scratch" .Values.data.copiesLimit }}
    {{- else }}
    persistentVolumeClaim: {claimName: {{ include "tandem.claim" . }}}
    {{- end }}
  - name: tmp
    emptyDir: {{ include "tandem.scratch" .Values.tmpLimit }}
  {{- with .Values.repo.existingClaim }}
  - name: repo
    persistentVolumeClaim: {claimName: {{ . }}, readOnly: true}
  {{- end }}
  {{- with .Values.secrets.settings }}
  - name: settings
    secret: {secretName: {{ . }}, defaultMode: 0440}
  {{- end }}
{{- end }}
{{- end }}

{{- define "tandem.scratch" -}}
{{ if . }}{sizeLimit: {{ . }}}{{ else }}{}{{ end }}
{{- end }}

{{- define "tandem.container" -}}
imagePullPolicy: {{ .Values.imagePullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "tandem.mounts" -}}
{{- if .Values.repo.existingClaim }}
- {name: repo, mountPath: /repo, readOnly: true}
{{- end }}
- {name: data, mountPath: /repo/data}
- {name: tmp, mountPath: /tmp}
{{- if .Values.secrets.settings }}
- {name: settings, mountPath: /run/secrets/tandem, readOnly: true}
{{- end }}
{{- end }}

{{- define "tandem.env" -}}
{{- if .Values.data.url }}
- {name: TANDEM_DATA, value: {{ .Values.data.url | quote }}}
- {name: TANDEM_CACHE, value: /repo/data}
{{- else }}
- {name: TANDEM_DATA, value: /repo/data}
{{- end }}
{{- if .Values.secrets.settings }}
- {name: TANDEM_SECRETS_DIR, value: /run/secrets/tandem}
{{- end }}
{{- range $name, $value := .Values.env }}
- name: {{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- range $name, $from := .Values.secrets.env }}
- name: {{ $name }}
  valueFrom:
    secretKeyRef: {name: {{ $from.secret }}, key: {{ $from.key }}}
{{- end }}
{{- end }}

{{- define "tandem.placement" -}}
{{- with .priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .nodeSelector }}
nodeSelector: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{ toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{ toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* The specification of a Job: command (none: tandem) and args of an image's target. */ -}}
{{- define "tandem.job" -}}
backoffLimit: {{ .root.Values.jobDefaults.retries }}
activeDeadlineSeconds: {{ .root.Values.jobDefaults.deadlineSeconds }}
template:
  metadata:
    labels: {{ include "tandem.podLabels" . | nindent 6 }}
  spec:
    {{- include "tandem.pod" . | nindent 4 }}
    {{- include "tandem.placement" .root.Values.jobDefaults | nindent 4 }}
    restartPolicy: Never
    containers:
      - name: {{ .part }}
        image: {{ include "tandem.image" . }}
        {{- include "tandem.container" .root | nindent 8 }}
        {{- with .command }}
        command: {{ toYaml . | nindent 10 }}
        {{- end }}
        {{- with .args }}
        args: {{ toYaml . | nindent 10 }}
        {{- end }}
        env:
          {{- include "tandem.env" .root | nindent 10 }}
          - {name: TANDEM_TRACKING__WAIT_SECONDS, value: "30"}
        resources: {{ toYaml .resources | nindent 10 }}
        volumeMounts:
          {{- include "tandem.mounts" .root | nindent 10 }}
{{- end }}
