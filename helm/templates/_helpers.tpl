{{/* Names */}}
{{- define "remora.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{/* At most 52: a StatefulSet's pods have a label of its name and ten characters. */}}
{{- define "remora.fullname" -}}
{{- $name := include "remora.name" . -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 52 | trimSuffix "-" -}}
{{- end -}}

{{- define "remora.selectorLabels" -}}
app.kubernetes.io/name: {{ include "remora.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "remora.relayLabels" -}}
{{ include "remora.selectorLabels" . }}
app.kubernetes.io/component: relay
{{- end -}}

{{- define "remora.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "remora.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/part-of: remora
{{- end -}}

{{/* remora.image (dict "root" . "image" .Values.image) */}}
{{- define "remora.image" -}}
{{- $registry := .root.Values.image.registry -}}
{{- $name := ternary (printf "%s/%s" $registry .image.repository) .image.repository (ne $registry "") -}}
{{- if .image.digest -}}
{{ $name }}@{{ .image.digest }}
{{- else -}}
{{ $name }}:{{ default .root.Chart.AppVersion .image.tag }}
{{- end -}}
{{- end -}}

{{- define "remora.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{ default (include "remora.fullname" .) .Values.serviceAccount.name }}
{{- else -}}
{{ default "default" .Values.serviceAccount.name }}
{{- end -}}
{{- end -}}

{{- define "remora.fleetSecret" -}}
{{ default (printf "%s-fleet" (include "remora.fullname" .)) .Values.mesh.existingSecret }}
{{- end -}}

{{- define "remora.adminSecret" -}}
{{ default (printf "%s-admin" (include "remora.fullname" .)) .Values.admin.existingSecret }}
{{- end -}}

{{/* Empty: relays make their own certificates. */}}
{{- define "remora.tlsSecret" -}}
{{- if .Values.tls.existingSecret -}}
{{ .Values.tls.existingSecret }}
{{- else if .Values.tls.certManager.enabled -}}
{{ include "remora.fullname" . }}-tls
{{- end -}}
{{- end -}}

{{/* As many relays as there may ever be. */}}
{{- define "remora.maxReplicas" -}}
{{- if .Values.autoscaling.enabled }}{{ .Values.autoscaling.maxReplicas | int }}{{ else }}{{ .Values.replicaCount | int }}{{ end -}}
{{- end -}}

{{/* "true" or "" */}}
{{- define "remora.isHostNetwork" -}}
{{- if has .Values.expose.mode (list "hostNetwork" "loadBalancer") }}true{{ end -}}
{{- end -}}

{{/* With a port: remora.hostPort (dict "host" "name or name:port" "port" 443) */}}
{{- define "remora.hostPort" -}}
{{- if regexMatch ":[0-9]+$" .host }}{{ .host }}{{ else }}{{ .host }}:{{ .port | int }}{{ end -}}
{{- end -}}

{{/* For each relay by itself, as JSON: a list that was given, or what the load balancers are called by now. Null: all have the same settings. */}}
{{- define "remora.addresses" -}}
{{- $port := .Values.expose.port -}}
{{- $all := list -}}
{{- if kindIs "slice" .Values.advertise -}}
{{- range .Values.advertise }}{{ $all = append $all (include "remora.hostPort" (dict "host" . "port" $port)) }}{{ end -}}
{{- toJson $all -}}
{{- else if and (eq .Values.advertise "auto") (eq .Values.expose.mode "loadBalancerPerPod") -}}
{{- range $number := until (include "remora.maxReplicas" . | int) -}}
{{- $service := lookup "v1" "Service" $.Release.Namespace (printf "%s-%d" (include "remora.fullname" $) $number) -}}
{{- $ingress := dig "status" "loadBalancer" "ingress" list $service -}}
{{- $at := "" -}}
{{- with $ingress }}{{ $first := first . }}{{ $at = default (default "" $first.hostname) $first.ip }}{{ end -}}
{{- $all = append $all (ternary (include "remora.hostPort" (dict "host" $at "port" $port)) "" (ne $at "")) -}}
{{- end -}}
{{- toJson $all -}}
{{- else -}}
null
{{- end -}}
{{- end -}}

{{/* As it stands before a port. */}}
{{- define "remora.podIP" -}}
{{ ternary "[$(POD_IP)]" "$(POD_IP)" .Values.expose.ipv6 }}
{{- end -}}

{{- define "remora.nodeIP" -}}
{{ ternary "[$(NODE_IP)]" "$(NODE_IP)" .Values.expose.ipv6 }}
{{- end -}}

{{/* For all relays: $(NAME) is filled in by the kubelet. */}}
{{- define "remora.advertise" -}}
{{- $host := ternary (include "remora.nodeIP" .) .Values.advertise (eq .Values.advertise "auto") -}}
{{- $host = regexReplaceAll "\\{\\{ *\\.podName *\\}\\}" $host "$$(POD_NAME)" -}}
{{- $host = regexReplaceAll "\\{\\{ *\\.nodeIP *\\}\\}" $host (include "remora.nodeIP" . | replace "$" "$$") -}}
{{- include "remora.hostPort" (dict "host" $host "port" .Values.expose.port) -}}
{{- end -}}

{{/* Ports of a public Service: remora.publicPorts (dict "root" . "udp" true "tcp" true) */}}
{{- define "remora.publicPorts" -}}
{{- $port := .root.Values.expose.port | int -}}
{{- $isNodePort := eq .root.Values.expose.mode "nodePort" -}}
{{- if .udp }}
- name: udp
  protocol: UDP
  port: {{ $port }}
  targetPort: udp
  {{- if $isNodePort }}
  nodePort: {{ $port }}
  {{- end }}
- name: observer
  protocol: UDP
  port: {{ add $port 1 }}
  targetPort: observer
  {{- if $isNodePort }}
  nodePort: {{ add $port 1 }}
  {{- end }}
{{- end }}
{{- if and .tcp .root.Values.expose.tcp }}
- name: tcp
  protocol: TCP
  port: {{ $port }}
  targetPort: tcp
  {{- if $isNodePort }}
  nodePort: {{ $port }}
  {{- end }}
{{- end }}
{{- end -}}

{{/* What a PodMonitor, PrometheusRule or dashboard goes by: remora.isOn (dict "root" . "enabled" .Values.…) */}}
{{- define "remora.isOn" -}}
{{- if eq (toString .enabled) "auto" -}}
{{- if .root.Capabilities.APIVersions.Has "monitoring.coreos.com/v1" }}true{{ end -}}
{{- else if .enabled }}true{{ end -}}
{{- end -}}

{{/* What values.schema.json cannot say of two values together. */}}
{{- define "remora.check" -}}
{{- $need := add .Values.drain.timeoutSeconds 10 -}}
{{- if lt (int64 .Values.terminationGracePeriodSeconds) (int64 $need) -}}
{{- fail (printf "terminationGracePeriodSeconds: %d is less than drain.timeoutSeconds and 10 (%d): sessions would be cut off" (int64 .Values.terminationGracePeriodSeconds) (int64 $need)) -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (lt (int .Values.autoscaling.maxReplicas) (int .Values.autoscaling.minReplicas)) -}}
{{- fail "autoscaling.maxReplicas: less than autoscaling.minReplicas" -}}
{{- end -}}
{{- if and .Values.autoscaling.enabled (not (or .Values.autoscaling.sessions .Values.autoscaling.bytesPerSecond .Values.autoscaling.cpuPercent)) -}}
{{- fail "autoscaling.sessions: with autoscaling one of sessions, bytesPerSecond and cpuPercent must be set" -}}
{{- end -}}
{{- if kindIs "slice" .Values.advertise -}}
{{- if lt (len .Values.advertise) (include "remora.maxReplicas" . | int) -}}
{{- fail (printf "advertise: %d addresses, and there may be %s relays" (len .Values.advertise) (include "remora.maxReplicas" .)) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.tls.existingSecret .Values.tls.certManager.enabled -}}
{{- fail "tls.existingSecret: cert-manager makes a Secret of its own; either that or tls.certManager.enabled" -}}
{{- end -}}
{{- if and (include "remora.tlsSecret" .) (not .Values.expose.tcp) -}}
{{- fail "expose.tcp: a certificate is for the TCP port, and there is none" -}}
{{- end -}}
{{- if and (include "remora.tlsSecret" .) (eq (toString .Values.advertise) "auto") -}}
{{- fail "advertise: a certificate is for a name, and `auto` is an address; say by which name each relay is reached" -}}
{{- end -}}
{{- $others := list (int .Values.mesh.port) (int .Values.admin.port) -}}
{{- if or (and .Values.expose.tcp (has (int .Values.expose.port) $others)) (eq (first $others) (last $others)) -}}
{{- fail "expose.port, mesh.port, admin.port: each needs a TCP port of its own" -}}
{{- end -}}
{{- end -}}
