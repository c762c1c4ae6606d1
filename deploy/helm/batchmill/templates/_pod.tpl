{{/* What the pods of all services have in common: root, service (coordinator or worker), secrets (that it gets). */}}
{{- define "batchmill.pod" -}}
serviceAccountName: {{ include "batchmill.account" .root }}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  runAsNonRoot: true
  runAsUser: 10001
  runAsGroup: 10001
  fsGroup: 10001
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile:
    type: RuntimeDefault
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "batchmill.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: ["ALL"]
{{- end }}

{{/* Environment: settings of all services, then those of this one. */}}
{{- define "batchmill.env" -}}
{{- $folders := list }}
{{- range .secrets }}{{ $folders = append $folders (printf "/secrets/%s" .) }}{{ end }}
- name: BATCHMILL_SECRETS_DIR
  value: {{ join "," $folders | quote }}
- name: BATCHMILL_BLOB_ROOT
  value: {{ .root.Values.blobRoot | quote }}
- name: BATCHMILL_ROOTS
  value: {{ join "," .root.Values.roots | quote }}
{{- range $name, $value := merge (dict) .settings .root.Values.settings }}
- name: BATCHMILL_{{ $name }}
  value: {{ $value | quote }}
{{- end }}
{{- end }}

{{- define "batchmill.envFrom" -}}
{{- with .root.Values.storeSecret }}
envFrom:
  - secretRef:
      name: {{ . }}
{{- end }}
{{- end }}

{{- define "batchmill.mounts" -}}
- name: tmp
  mountPath: /tmp
{{- range .secrets }}
- name: secret-{{ . }}
  mountPath: /secrets/{{ . }}
  readOnly: true
{{- end }}
{{- $service := .service }}
{{- range .root.Values.secrets.others }}
{{- if has $service .services }}
- name: other-{{ .name }}
  mountPath: /secrets/{{ .name }}
  readOnly: true
{{- end }}
{{- end }}
{{- range .root.Values.volumes }}
- name: {{ .name }}
  mountPath: {{ .mountPath }}
{{- end }}
{{- end }}

{{- define "batchmill.volumes" -}}
{{- $secrets := .root.Values.secrets }}
- name: tmp
  emptyDir: {}
{{- range .secrets }}
- name: secret-{{ . }}
  secret:
    secretName: {{ index $secrets . }}
    defaultMode: 0440
{{- end }}
{{- $service := .service }}
{{- range $secrets.others }}
{{- if has $service .services }}
- name: other-{{ .name }}
  secret:
    secretName: {{ .name }}
    defaultMode: 0440
{{- end }}
{{- end }}
{{- range .root.Values.volumes }}
- {{- omit . "mountPath" | toYaml | nindent 2 }}
{{- end }}
{{- end }}
