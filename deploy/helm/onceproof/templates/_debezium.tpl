{{/*
What the relay's pod has with `relay.kind: cdc`: an init container that writes Debezium's configuration from
the relay's own settings, and Debezium Server, which sends to the relay beside it and to nobody else.
*/}}

{{/* Not empty where the migrations send events: those that a new slot will not give out. */}}
{{- define "onceproof.migrationsSend" -}}
{{- if and (eq .Values.relay.kind "cdc") .Values.postgres.embedded }}true{{ end }}
{{- end }}

{{/* Takes {root, component, env}. */}}
{{- define "onceproof.debeziumConfiguration" -}}
- name: configure
  image: {{ include "onceproof.image" . }}
  imagePullPolicy: {{ .root.Values.image.pullPolicy }}
  {{- include "onceproof.containerSecurity" . | nindent 2 }}
  command: ["python", "-m", "onceproof_relay.cdc.configure"]
  env:
    {{- include "onceproof.pipelineEnv" .root | nindent 4 }}
    {{- .env | trim | nindent 4 }}
    {{- with .root.Values.relay.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  resources:
    {{- toYaml .root.Values.relay.resources | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    - {name: debezium, mountPath: /debezium}
{{- end }}

{{- define "onceproof.debezium" -}}
- name: debezium
  image: {{ .Values.relay.debezium.image }}
  imagePullPolicy: {{ .Values.image.pullPolicy }}
  {{- include "onceproof.containerSecurity" . | nindent 2 }}
  env:
    {{- include "onceproof.databaseUrl" (dict "root" . "name" "DEBEZIUM_SOURCE_DATABASE_PASSWORD" "key" "cdc-password") | nindent 4 }}
    - {name: JAVA_OPTS, value: {{ .Values.relay.debezium.javaOptions | quote }}}
    # The relay checks none, and the client wants some.
    - {name: AWS_ACCESS_KEY_ID, value: door}
    - {name: AWS_SECRET_ACCESS_KEY, value: door}
    # Or the client speaks a binary protocol that the relay does not know.
    - {name: CBOR_ENABLED, value: "false"}
    - {name: KUBERNETES_AUTH_TRYKUBECONFIG, value: "false"}
  ports:
    - {name: health, containerPort: 8080}
  # Lenient: it ends by itself when it cannot go on, and whether it reads its slot is the relay's readiness.
  livenessProbe:
    httpGet: {path: /q/health/live, port: health}
    initialDelaySeconds: 60
    periodSeconds: 20
    timeoutSeconds: 5
    failureThreshold: 6
  resources:
    {{- toYaml .Values.relay.debezium.resources | nindent 4 }}
  volumeMounts:
    - {name: debezium, mountPath: /debezium/config, subPath: config, readOnly: true}
    - {name: debezium-tmp, mountPath: /tmp}
{{- end }}

{{- define "onceproof.debeziumVolumes" -}}
- name: debezium
  emptyDir: {sizeLimit: 1Mi}
- name: debezium-tmp
  emptyDir: {sizeLimit: 64Mi}
{{- end }}
