//! The systemd unit.

/// `kvnode@.service`: one instance a node, `kvnode@n1` with `/etc/kvnode/n1.toml`.
pub(super) const UNIT: &str = "\
[Unit]
Description=kvkit node %i
Documentation=man:kvnode(1)
After=network-online.target
Wants=network-online.target

[Service]
Type=notify
ExecStartPre=/usr/bin/kvnode check-config -q -c /etc/kvnode/%i.toml
ExecStart=/usr/bin/kvnode run -c /etc/kvnode/%i.toml
ExecReload=/bin/kill -HUP $MAINPID
User=kvnode
Group=kvnode
StateDirectory=kvnode/%i
StateDirectoryMode=0700
UMask=0077
LimitNOFILE=65536
TimeoutStartSec=infinity
TimeoutStopSec=60
Restart=on-failure
# Exit codes that a restart does not mend: bad data, wrong cluster, removed member, bad configuration.
RestartPreventExitStatus=65 76 77 78
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
SystemCallArchitectures=native
CapabilityBoundingSet=

[Install]
WantedBy=multi-user.target
";
