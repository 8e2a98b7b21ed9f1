{{/* Names, labels and images. */}}

{{- define "onceproof.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Short enough that the longest suffix, "-migrate-<revision>", fits into a label. */}}
{{- define "onceproof.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 46 | trimSuffix "-" }}
{{- else if contains (include "onceproof.name" .) .Release.Name }}
{{- .Release.Name | trunc 46 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "onceproof.name" .) | trunc 46 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{/* What never changes, for selectors. Takes {root, component}. */}}
{{- define "onceproof.selectorLabels" -}}
app.kubernetes.io/name: {{ include "onceproof.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
{{- with .component }}
app.kubernetes.io/component: {{ . }}
{{- end }}
{{- end }}

{{/* Labels of every object. Takes {root, component}. */}}
{{- define "onceproof.labels" -}}
{{ include "onceproof.selectorLabels" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: onceproof
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{- end }}

{{/* Labels that say how a pipeline pod is set up; the operator refuses pods without chaos. */}}
{{- define "onceproof.pipelineLabels" -}}
onceproof.dev/chaos: {{ ternary "enabled" "disabled" .Values.chaos.enabled }}
onceproof.dev/variant: {{ .Values.variant }}
{{- end }}

{{/* One of the project's images. Takes {root, component}. */}}
{{- define "onceproof.image" -}}
{{- $image := .root.Values.image -}}
{{ $image.registry | trimSuffix "/" }}/onceproof-{{ .component }}:{{ default .root.Chart.AppVersion $image.tag }}
{{- end }}

{{/* Replicas of the relay: a replication slot has one reader. */}}
{{- define "onceproof.relayReplicas" -}}
{{- if kindIs "invalid" .Values.relay.replicas }}{{ ternary 1 2 (eq .Values.relay.kind "cdc") }}
{{- else }}{{ int .Values.relay.replicas }}
{{- end }}
{{- end }}

{{/* A number as written: large ones must not become 3.024e+06, which no integer setting reads. */}}
{{- define "onceproof.number" -}}
{{- if eq (float64 .) (float64 (int64 .)) }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- end }}

{{/* Replicas of the consumer when nothing scales it. */}}
{{- define "onceproof.consumerReplicas" -}}
{{- if .Values.autoscaling.enabled }}{{ int .Values.autoscaling.minReplicas }}
{{- else if .Values.keda.enabled }}{{ int .Values.keda.minReplicas }}
{{- else if kindIs "invalid" .Values.consumer.replicas }}2
{{- else }}{{ int .Values.consumer.replicas }}
{{- end }}
{{- end }}
