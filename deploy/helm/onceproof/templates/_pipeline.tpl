{{/*
Deployment of a pipeline component; the four differ in nothing but their environment and ports.
Takes {root, component, replicas (nil: something else scales it), httpPort (nil: none), env}, and what only
one of them has: strategy, command, initContainers, sidecars, volumes.
*/}}
{{- define "onceproof.pipelineDeployment" -}}
{{- $root := .root }}
{{- $values := index $root.Values .component }}
{{- $name := printf "%s-%s" (include "onceproof.fullname" $root) .component }}
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {{ $name }}
  labels:
    {{- include "onceproof.labels" . | nindent 4 }}
    {{- include "onceproof.pipelineLabels" $root | nindent 4 }}
spec:
  {{- if not (kindIs "invalid" .replicas) }}
  replicas: {{ .replicas }}
  {{- end }}
  revisionHistoryLimit: 3
  selector:
    matchLabels:
      {{- include "onceproof.selectorLabels" . | nindent 6 }}
  strategy:
    {{- if .strategy }}
    type: {{ .strategy }}
    {{- else }}
    type: RollingUpdate
    rollingUpdate: {maxUnavailable: 0, maxSurge: 1}
    {{- end }}
  template:
    metadata:
      labels:
        {{- with $values.podLabels }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
        {{- include "onceproof.labels" . | nindent 8 }}
        {{- include "onceproof.pipelineLabels" $root | nindent 8 }}
      {{- with $values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: {{ $name }}
      automountServiceAccountToken: false
      {{- include "onceproof.pullSecrets" $root | nindent 6 }}
      {{- include "onceproof.podSecurity" 65532 | nindent 6 }}
      terminationGracePeriodSeconds: {{ add (int $root.Values.drainTimeoutSeconds) 15 }}
      {{- with .initContainers }}
      initContainers:
        {{- . | trim | nindent 8 }}
      {{- end }}
      containers:
        - name: {{ .component }}
          image: {{ include "onceproof.image" . }}
          imagePullPolicy: {{ $root.Values.image.pullPolicy }}
          {{- include "onceproof.containerSecurity" . | nindent 10 }}
          {{- with .command }}
          command: {{ toJson . }}
          {{- end }}
          env:
            {{- include "onceproof.pipelineEnv" $root | nindent 12 }}
            {{- .env | trim | nindent 12 }}
            {{- with $values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            {{- with .httpPort }}
            - {name: http, containerPort: {{ . }}}
            {{- end }}
            - {name: admin, containerPort: 9000}
          {{- include "onceproof.probes" (dict "port" "admin" "chaos" $root.Values.chaos.enabled) | nindent 10 }}
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          volumeMounts:
            - {name: tmp, mountPath: /tmp}
            {{- with include "onceproof.brokerMounts" $root | trim }}
            {{- . | nindent 12 }}
            {{- end }}
        {{- with .sidecars }}
        {{- . | trim | nindent 8 }}
        {{- end }}
      volumes:
        - name: tmp
          emptyDir: {sizeLimit: 16Mi}
        {{- with include "onceproof.brokerVolumes" $root | trim }}
        {{- . | nindent 8 }}
        {{- end }}
        {{- with .volumes }}
        {{- . | trim | nindent 8 }}
        {{- end }}
      {{- include "onceproof.topologySpread" (dict "root" $root "component" .component "values" $values) | nindent 6 }}
      {{- include "onceproof.scheduling" $values | nindent 6 }}
{{- end }}
