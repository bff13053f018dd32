{{/* A pod that puts sessions through a relay: remora.tester (dict "root" . "args" (list …)) */}}
{{- define "remora.tester" -}}
restartPolicy: Never
automountServiceAccountToken: false
enableServiceLinks: false
{{- with .root.Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext: {{- toYaml .root.Values.podSecurityContext | nindent 2 }}
containers:
  - name: remora-loadtest
    image: {{ include "remora.image" (dict "root" .root "image" .root.Values.toolsImage) }}
    imagePullPolicy: {{ .root.Values.image.pullPolicy }}
    command: [/usr/bin/remora-loadtest]
    args: {{ concat .args (list "--relay" (printf "http://%s-admin.%s.svc:%d" (include "remora.fullname" .root) .root.Release.Namespace (int .root.Values.admin.port)) "--i-own-this-network" "--no-pin") | toJson }}
    securityContext: {{- toYaml .root.Values.securityContext | nindent 6 }}
    resources:
      requests: {cpu: 100m, memory: 128Mi}
      limits: {memory: 1Gi}
{{- end -}}
