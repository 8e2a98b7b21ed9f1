{{/*
Environment variables, by what they are for. Those of a component are put together in its own file.
*/}}

{{/* Takes {name, value}: a variable whose value is a number or a string. */}}
{{- define "onceproof.variable" -}}
- name: {{ .name }}
  value: {{ if kindIs "string" .value }}{{ .value | quote }}{{ else if kindIs "bool" .value }}{{ .value | quote }}{{ else }}{{ include "onceproof.number" .value | quote }}{{ end }}
{{- end }}

{{/* Takes {root, values: a dict of name to value}: a list of variables in the order of their names. */}}
{{- define "onceproof.variables" -}}
{{- range $name, $value := . }}
{{ include "onceproof.variable" (dict "name" $name "value" $value) }}
{{- end }}
{{- end }}

{{/* Value of a timing: the component's own, or the short one while chaos is enabled. */}}
{{- define "onceproof.visibilitySeconds" -}}
{{- $own := ternary .Values.kafka.stallSeconds .Values.sqs.visibilitySeconds (eq .Values.broker "kafka") }}
{{- include "onceproof.number" (ternary .Values.chaos.timing.visibilitySeconds $own .Values.chaos.enabled) }}
{{- end }}

{{/* Not empty where the release runs ElasticMQ, or Kafka. */}}
{{- define "onceproof.elasticmq" -}}
{{- if and (eq .Values.broker "sqs") .Values.sqs.embedded }}true{{ end }}
{{- end }}

{{- define "onceproof.embeddedKafka" -}}
{{- if and (eq .Values.broker "kafka") .Values.kafka.embedded }}true{{ end }}
{{- end }}

{{- define "onceproof.kafkaBootstrap" -}}
{{- if .Values.kafka.embedded }}{{ include "onceproof.fullname" . }}-kafka:9092{{ else }}{{ .Values.kafka.bootstrapServers }}{{ end }}
{{- end }}

{{- define "onceproof.deadLetterQueue" -}}
{{- if eq .Values.broker "kafka" }}{{ .Values.kafka.topic }}.dlq{{ else }}{{ .Values.sqs.deadLetterQueue }}{{ end }}
{{- end }}

{{- define "onceproof.databaseSecret" -}}
{{- default (printf "%s-database" (include "onceproof.fullname" .)) .Values.database.existingSecret }}
{{- end }}

{{/* Takes {root, key, name}: a database URL or password. It is never an argument, which `ps` would show. */}}
{{- define "onceproof.databaseUrl" -}}
- name: {{ .name }}
  valueFrom:
    secretKeyRef: {name: {{ include "onceproof.databaseSecret" .root }}, key: {{ .key }}}
{{- end }}

{{- define "onceproof.awsSecret" -}}
{{- if .Values.sqs.embedded }}{{ include "onceproof.fullname" . }}-elasticmq{{ else }}{{ .Values.sqs.existingSecret }}{{ end }}
{{- end }}

{{- define "onceproof.sqsEndpointUrl" -}}
{{- if .Values.sqs.embedded }}http://{{ include "onceproof.fullname" . }}-elasticmq:9324{{ else }}{{ .Values.sqs.endpointUrl }}{{ end }}
{{- end }}

{{/* ElasticMQ takes any region; the client wants one. */}}
{{- define "onceproof.sqsRegion" -}}
{{- if .Values.sqs.embedded }}{{ default "eu-central-1" .Values.sqs.region }}{{ else }}{{ .Values.sqs.region }}{{ end }}
{{- end }}

{{- define "onceproof.otlpEndpoint" -}}
{{- if .Values.tracing.embedded }}http://{{ include "onceproof.fullname" . }}-jaeger:4318{{ else }}{{ .Values.tracing.otlpEndpoint }}{{ end }}
{{- end }}

{{- define "onceproof.tracesUrl" -}}
{{- if .Values.tracing.embedded }}http://{{ include "onceproof.fullname" . }}-jaeger:16686{{ else }}{{ .Values.tracing.queryUrl }}{{ end }}
{{- end }}

{{- define "onceproof.tracing" -}}
{{- with include "onceproof.otlpEndpoint" . }}
- name: ONCEPROOF_OTLP_ENDPOINT
  value: {{ . | quote }}
{{- end }}
{{- end }}

{{/* What each pipeline component is told. */}}
{{- define "onceproof.pipelineEnv" -}}
- name: ONCEPROOF_VARIANT
  value: {{ .Values.variant }}
- name: ONCEPROOF_CHAOS_ENABLED
  value: {{ .Values.chaos.enabled | quote }}
- name: ONCEPROOF_LOG_LEVEL
  value: {{ .Values.logLevel }}
- name: ONCEPROOF_ADMIN_PORT
  value: "9000"
{{ include "onceproof.variable" (dict "name" "ONCEPROOF_DRAIN_TIMEOUT_S" "value" .Values.drainTimeoutSeconds) }}
{{ include "onceproof.variable" (dict "name" "ONCEPROOF_SCHEMA_WAIT_S" "value" .Values.schemaWaitSeconds) }}
{{- include "onceproof.tracing" . }}
{{- end }}

{{/* What each client of the broker is told. */}}
{{- define "onceproof.brokerEnv" -}}
{{- if eq .Values.broker "kafka" }}{{ include "onceproof.kafkaEnv" . }}{{ else }}{{ include "onceproof.sqsEnv" . }}{{ end }}
{{- end }}

{{- define "onceproof.kafkaEnv" -}}
{{- $kafka := .Values.kafka -}}
- name: ONCEPROOF_BROKER
  value: kafka
{{- include "onceproof.variables" (dict
  "ONCEPROOF_KAFKA_BOOTSTRAP" (include "onceproof.kafkaBootstrap" .)
  "ONCEPROOF_KAFKA_GROUP" $kafka.group
  "ONCEPROOF_KAFKA_SESSION_S" (ternary .Values.chaos.timing.visibilitySeconds $kafka.sessionSeconds .Values.chaos.enabled)
  "ONCEPROOF_KAFKA_MAX_DELIVERIES" (ternary .Values.chaos.timing.maxReceiveCount $kafka.maxDeliveries .Values.chaos.enabled)
  "ONCEPROOF_KAFKA_SECURITY_PROTOCOL" $kafka.security.protocol
  "ONCEPROOF_KAFKA_SASL_MECHANISM" $kafka.security.mechanism
  "ONCEPROOF_QUEUE" $kafka.topic) }}
{{- with $kafka.security.existingSecret }}
- name: ONCEPROOF_KAFKA_SASL_USERNAME
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: username}
- name: ONCEPROOF_KAFKA_SASL_PASSWORD
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: password}
{{- end }}
{{- if $kafka.security.caSecret }}
- name: ONCEPROOF_KAFKA_CA_FILE
  value: /etc/onceproof/kafka/ca.crt
{{- end }}
{{- end }}

{{/* The certificate authority of Kafka's brokers, for pods that talk to them. */}}
{{- define "onceproof.brokerMounts" -}}
{{- if and (eq .Values.broker "kafka") .Values.kafka.security.caSecret }}
- {name: kafka-ca, mountPath: /etc/onceproof/kafka, readOnly: true}
{{- end }}
{{- end }}

{{- define "onceproof.brokerVolumes" -}}
{{- if eq .Values.broker "kafka" }}
{{- with .Values.kafka.security.caSecret }}
- name: kafka-ca
  secret: {secretName: {{ . }}, items: [{key: ca.crt, path: ca.crt}]}
{{- end }}
{{- end }}
{{- end }}

{{/* What each client of the queue is told. */}}
{{- define "onceproof.sqsEnv" -}}
- name: ONCEPROOF_SQS_REGION
  value: {{ include "onceproof.sqsRegion" . }}
{{- with include "onceproof.sqsEndpointUrl" . }}
- name: ONCEPROOF_SQS_ENDPOINT_URL
  value: {{ . | quote }}
{{- end }}
- name: ONCEPROOF_QUEUE
  value: {{ .Values.sqs.queue }}
{{- with include "onceproof.awsSecret" . }}
- name: AWS_ACCESS_KEY_ID
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: aws-access-key-id}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: aws-secret-access-key}
{{- end }}
{{- end }}
