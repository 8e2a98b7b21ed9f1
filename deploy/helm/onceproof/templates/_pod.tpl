{{/* What pods of the chart have in common: as few rights as they can run with, and where they run. */}}

{{/* Takes the uid. fsGroup only matters where there is a volume to own. */}}
{{- define "onceproof.podSecurity" -}}
securityContext:
  runAsNonRoot: true
  runAsUser: {{ . }}
  runAsGroup: {{ . }}
  fsGroup: {{ . }}
  fsGroupChangePolicy: OnRootMismatch
  seccompProfile: {type: RuntimeDefault}
# The variables ONCEPROOF_PRODUCER_PORT and the like, made for each Service, look like settings.
enableServiceLinks: false
{{- end }}

{{- define "onceproof.containerSecurity" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  privileged: false
  capabilities: {drop: [ALL]}
{{- end }}

{{- define "onceproof.pullSecrets" -}}
{{- with .Values.image.pullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Takes the values of a component. */}}
{{- define "onceproof.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Takes {root, component, values}. */}}
{{- define "onceproof.topologySpread" -}}
topologySpreadConstraints:
{{- with .values.topologySpreadConstraints }}
  {{- toYaml . | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "onceproof.selectorLabels" . | nindent 8 }}
{{- end }}
{{- end }}

{{/*
Probes on an HTTP port. Takes {port, chaos}. The start is looked at each second, because a replacement
for a killed pod should not wait for a probe. Liveness is lenient: a pod that stands still at a crash
point answers from its admin thread, and a busy node must not turn into restarts.
*/}}
{{- define "onceproof.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: {{ .port }}}
  periodSeconds: 1
  timeoutSeconds: 3
  failureThreshold: 120
readinessProbe:
  httpGet: {path: /readyz, port: {{ .port }}}
  periodSeconds: {{ ternary 1 5 .chaos }}
  timeoutSeconds: 3
  failureThreshold: 3
livenessProbe:
  httpGet: {path: /healthz, port: {{ .port }}}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
{{- end }}
