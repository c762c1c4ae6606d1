{{- define "batchmill.name" -}}
{{ .Release.Name | trunc 28 | trimSuffix "-" }}
{{- end }}

{{- define "batchmill.labels" -}}
app.kubernetes.io/name: batchmill
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{/* What selects the pods of one service; never changed after the first installation. */}}
{{- define "batchmill.selector" -}}
app.kubernetes.io/name: batchmill
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "batchmill.account" -}}
{{- if .Values.serviceAccount.annotations }}{{ include "batchmill.name" . }}{{ else }}{{ .Values.serviceAccount.name | default "default" }}{{ end }}
{{- end }}

{{/* What a pool has that does not say otherwise. */}}
{{- define "batchmill.poolDefaults" -}}
replicas: 1
min: 0
max: 8
gpus: 0
drainSeconds: 60
spot: ""
operators: []
settings: {}
resources: {}
nodeSelector: {}
tolerations: []
queue: ""
image: ""
{{- end }}
