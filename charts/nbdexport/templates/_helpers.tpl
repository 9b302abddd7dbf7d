{{/* The beginning of all names. The longest that is made of it has 16 more characters, and may have 63. */}}
{{- define "nbdexport.fullname" -}}
{{- $name := .Release.Name -}}
{{- if not (contains .Chart.Name $name) -}}{{- $name = printf "%s-%s" $name .Chart.Name -}}{{- end -}}
{{- $name | replace "." "-" | trunc 47 | trimSuffix "-" -}}
{{- end }}

{{/* What finds the manager's pods. */}}
{{- define "nbdexport.selector" -}}
app.kubernetes.io/name: nbdexport
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: manager
{{- end }}

{{/* The labels of everything but the pods. */}}
{{- define "nbdexport.labels" -}}
{{ include "nbdexport.selector" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{/* A reference to an image, out of a list of the values of it and the default tag. */}}
{{- define "nbdexport.reference" -}}
{{- $image := index . 0 -}}
{{- if $image.digest -}}
{{ printf "%s@%s" $image.repository $image.digest }}
{{- else -}}
{{ printf "%s:%s" $image.repository ($image.tag | default (index . 1)) }}
{{- end -}}
{{- end }}

{{- define "nbdexport.image" -}}
{{ include "nbdexport.reference" (list .Values.image .Chart.AppVersion) }}
{{- end }}

{{- define "nbdexport.serverImage" -}}
{{- if .Values.serverImage.repository -}}
{{ include "nbdexport.reference" (list .Values.serverImage .Chart.AppVersion) }}
{{- else if or .Values.serverImage.tag .Values.serverImage.digest -}}
{{ fail "serverImage has a tag or a digest, but no repository: name it, or leave all of serverImage empty for the manager's image" }}
{{- else -}}
{{ include "nbdexport.image" . }}
{{- end -}}
{{- end }}

{{/* The rules that the manager needs where its exports are: generated from the Go code. */}}
{{- define "nbdexport.rules" -}}
{{ (.Files.Get "files/role.yaml" | fromYaml).rules | toYaml }}
{{- range .Values.objectConditionResources }}
- apiGroups: [{{ .apiGroup | quote }}]
  resources: [{{ .resource }}]
  verbs: [get]
{{- end }}
{{- end }}

{{/* The manager as the subject of a binding. */}}
{{- define "nbdexport.subjects" -}}
- kind: ServiceAccount
  name: {{ include "nbdexport.fullname" . }}-manager
  namespace: {{ .Release.Namespace }}
{{- end }}

{{/* What the Pod Security Standard "restricted" asks of a pod, and of a container. */}}
{{- define "nbdexport.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}
{{- define "nbdexport.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where "helm test" makes its pod: where an export is served. */}}
{{- define "nbdexport.testNamespace" -}}
{{- if .Values.watchNamespaces }}{{ first .Values.watchNamespaces }}{{ else }}{{ .Release.Namespace }}{{ end -}}
{{- end }}
